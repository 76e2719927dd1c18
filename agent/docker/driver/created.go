package driver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/docker"
)

// A container that was created with --ip and has never run (docker create, Compose) also
// keeps its address. Docker does not tell the driver about it before its start, but
// Docker's list of containers contains the requested address. An endpoint without an
// interface reserves the address until the start. Its id is not an endpoint id of
// Docker's.

const (
	// createdPause is how long the driver waits before it looks at a new container. docker
	// run starts the container at once, and then Docker itself requests the address.
	createdPause = 500 * time.Millisecond
	// createdMost bounds the number of new containers per look. The sweep finds the others.
	createdMost = 1024
)

// created schedules a look at a container that Docker has just created.
func (k *kept) created(container string) {
	if api.CheckEndpointID(container) != nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.made) < createdMost {
		k.made[container] = true
	}
	select {
	case k.begin <- struct{}{}:
	default:
	}
}

// createdUnseen schedules a look at every container.
func (k *kept) createdUnseen() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.all = true
	select {
	case k.begin <- struct{}{}:
	default:
	}
}

func (k *kept) takeCreated() (all bool, ids []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	all, ids = k.all, slices.Sorted(maps.Keys(k.made))
	k.all = false
	clear(k.made)
	return all, ids
}

// lock waits until no other goroutine requests this address from the agent.
func (k *kept) lock(ctx context.Context, addr netip.Prefix) (unlock func(), err error) {
	for {
		k.mu.Lock()
		busy, is := k.busy[addr]
		if !is {
			mine := make(chan struct{})
			k.busy[addr] = mine
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				defer k.mu.Unlock()
				delete(k.busy, addr)
				close(mine)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, api.Errorf(api.CodeUnavailable, "address %s is being asked for by another container; try again", addr.Addr())
		}
	}
}

// awaits reports whether Docker has been given an address whose endpoint does not exist
// yet.
func (k *kept) awaits(addr netip.Prefix) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.asks[addr]
}

// keep records that an endpoint keeps an address that Docker has not requested.
func (k *kept) keep(endpoint string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.named) < keptMost {
		k.named[endpoint] = true
	}
	k.lookLocked() // its container may be gone by now
}

// keepCreated keeps the addresses of created containers until ctx ends.
func (d *Driver) keepCreated(ctx context.Context, engine *docker.Engine) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.kept.begin:
		}
		pause := time.NewTimer(createdPause)
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-pause.C:
		}
		if err := d.lookAtCreated(ctx, engine); err != nil && ctx.Err() == nil {
			// The next sweep tries again.
			d.Logger.Warn("it is not known whether new containers ask for addresses", "err", err)
		}
	}
}

func (d *Driver) lookAtCreated(ctx context.Context, engine *docker.Engine) error {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	all, ids := d.kept.takeCreated()
	ask := func() ([]docker.NamedAddress, error) { return engine.NamedAddressesOf(ctx, ids) }
	if all {
		ask = func() ([]docker.NamedAddress, error) { return engine.NamedAddresses(ctx) }
	}
	list, err := ask()
	if err != nil {
		return err
	}
	named, err := byNetwork(ctx, engine, list)
	if err != nil {
		return err
	}
	return d.keepNamed(ctx, named)
}

// keepNamed keeps the addresses that containers without an endpoint request. It fails if
// the agent is unavailable.
func (d *Driver) keepNamed(ctx context.Context, named namedAddresses) error {
	for _, key := range slices.Sorted(maps.Keys(named)) {
		c := named[key]
		if c.Endpoint != "" || !c.cluster.subnet.Contains(c.IP) {
			continue
		}
		if err := d.keepForStart(ctx, c); api.CodeOf(err) == api.CodeUnavailable {
			return err
		} else if err != nil {
			// The user sees the error when the container starts.
			d.Logger.Debug("the address of a container that has never run is not kept", "container", c.Container, "network", c.cluster.network, "ip", c.IP, "err", err)
		}
	}
	return nil
}

// keepForStart keeps an address unless an endpoint on this host has it or is about to get
// it.
func (d *Driver) keepForStart(ctx context.Context, c namedAddress) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	addr := netip.PrefixFrom(c.IP, c.cluster.subnet.Bits())
	unlock, err := d.kept.lock(ctx, addr)
	if err != nil {
		return err
	}
	defer unlock()
	if d.kept.awaits(addr) {
		return nil
	}
	endpoints, err := d.Service.Endpoints(ctx)
	if err != nil {
		return err
	}
	for _, e := range endpoints {
		if e.Network == c.cluster.network && e.IP == c.IP {
			return nil
		}
	}
	// Hold fails for an address that Docker was just given for another container. Without
	// it, Reserve would take the address from that container.
	if _, err := d.Service.Hold(ctx, api.HoldRequest{Network: c.cluster.network, IP: c.IP.String()}); err != nil {
		return err
	}
	id := createdID(c)
	_, err = d.Service.Reserve(ctx, api.ReserveRequest{
		ID: id, Network: c.cluster.network, IP: c.IP.String(), Source: api.SourceDriver, ContainerID: c.Container, ContainerName: c.Name,
	})
	if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		_ = d.Service.Unhold(undo, c.cluster.network, c.IP.String()) // otherwise the hold expires within a minute
		return err
	}
	d.kept.keep(id)
	d.Logger.Info("the address of a container that has never run is kept", "container", c.Container, "container_name", c.Name, "network", c.cluster.network, "ip", c.IP)
	return nil
}

// createdID returns the id of the endpoint that keeps an address. It depends only on
// network and address, because several containers may request the same address.
func createdID(c namedAddress) string {
	sum := sha256.Sum256([]byte(c.cluster.network + "/" + c.IP.String()))
	return createdPrefix + hex.EncodeToString(sum[:16])
}

// createdPrefix starts the ids of endpoints that keep an address until the first start of
// a container. It sets them apart from Docker's ids, which are hexadecimal.
const createdPrefix = "created-"

func keepsForStart(endpoint string) bool { return strings.HasPrefix(endpoint, createdPrefix) }
