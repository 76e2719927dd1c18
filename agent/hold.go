package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/ipam"
)

// holdTime is how long an address is reserved for an endpoint. Docker requests an address
// and creates the endpoint, or releases the address, within a second.
const holdTime = time.Minute

// holdPrefix starts the names of holds as owners of addresses. No endpoint id starts with
// it. After a crash, claim finds and releases the leftover holds, because no endpoint has
// them.
const holdPrefix = "+"

// hold is an address that is reserved for an endpoint.
type hold struct {
	owner   string // name in the store
	network string
	pool    ipam.Pool
	ip      netip.Addr // the zero Addr if it is unknown whether an address was allocated
	since   time.Time
	until   time.Time
	doubt   bool // a write may still be in progress: release it twice
}

// holds are the holds of this host, by owner.
type holds struct {
	mu      sync.Mutex
	byOwner map[string]hold
}

func newHolds() *holds { return &holds{byOwner: map[string]hold{}} }

func (h *holds) put(x hold) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.byOwner[x.owner] = x
}

// take removes and returns the hold of an address.
func (h *holds) take(networkID string, ip netip.Addr) (hold, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for owner, x := range h.byOwner {
		if x.network == networkID && x.ip == ip {
			delete(h.byOwner, owner)
			return x, true
		}
	}
	return hold{}, false
}

// find returns the hold of an address.
func (h *holds) find(networkID string, ip netip.Addr) (hold, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, x := range h.byOwner {
		if x.network == networkID && x.ip == ip {
			return x, true
		}
	}
	return hold{}, false
}

// over removes and returns the expired holds.
func (h *holds) over(now time.Time) []hold {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []hold
	for owner, x := range h.byOwner {
		if !now.Before(x.until) {
			delete(h.byOwner, owner)
			list = append(list, x)
		}
	}
	return list
}

// Hold implements api.Service.
func (a *Agent) Hold(ctx context.Context, req api.HoldRequest) (api.Hold, error) {
	if err := api.CheckNetworkRef(req.Network); err != nil {
		return api.Hold{}, err
	}
	var ip netip.Addr
	if req.IP != "" {
		var err error
		if ip, err = api.ParseIP(req.IP); err != nil {
			return api.Hold{}, err
		}
	}
	if req.From != "" {
		if err := api.CheckEndpointID(req.From); err != nil {
			return api.Hold{}, err
		}
	}
	if err := a.awaitLoaded(ctx); err != nil {
		return api.Hold{}, err
	}
	r, err := a.findNetwork(ctx, req.Network)
	if err == nil {
		r, err = a.inForce(r)
	}
	if err != nil {
		return api.Hold{}, translate(err)
	}
	within := a.poolToChoose(r, nil)
	if req.Range != "" {
		part, err := api.ParseRange(req.Range, r.Subnet)
		if err != nil {
			return api.Hold{}, err
		}
		if within.Range, err = narrower(part, within.Range); err != nil {
			return api.Hold{}, err
		}
	}
	h := hold{owner: a.owner(holdPrefix + rand.Text()), network: r.ID, pool: pool(r)}
	got, err := a.holdAddress(ctx, r, within, ip, h.owner, req.From)
	if err != nil {
		if away(err) || ctx.Err() != nil {
			h.doubt = true // it may have been applied anyway: expire the hold at once
			a.holds.put(h)
			signal(a.kick)
		}
		return api.Hold{}, translate(a.explainAddress(err, r))
	}
	h.ip, h.since = got, time.Now()
	h.until = h.since.Add(holdTime)
	a.holds.put(h)
	return api.Hold{Network: r.ID, IP: h.ip, PrefixLen: r.Subnet.Bits(), Gateway: r.Gateway}, nil
}

// narrower returns the intersection of two ranges. If networks is the zero Prefix, the
// network has no range. Disjoint ranges are an error.
func narrower(asked, networks netip.Prefix) (netip.Prefix, error) {
	switch {
	case !networks.IsValid(), networks.Overlaps(asked) && asked.Bits() >= networks.Bits():
		return asked, nil
	case networks.Overlaps(asked):
		return networks, nil
	}
	return asked, api.Errorf(api.CodeInvalid, "range %s is outside of %s, from which the network gives dynamic addresses; leave it out", asked, networks)
}

// holdAddress allocates an address for a hold. If ip is not valid, it allocates the next
// free address of the pool within. A requested address may still belong to an endpoint of
// a Docker network whose container is gone. That happens if Docker was killed before it
// could release the endpoint, and it now requests the address for the successor. from is
// the endpoint of a stopped container from which the hold may take the address.
func (a *Agent) holdAddress(ctx context.Context, r network.Record, within ipam.Pool, ip netip.Addr, owner, from string) (netip.Addr, error) {
	if !ip.IsValid() {
		return a.Addresses.Allocate(ctx, within, owner)
	}
	err := a.Addresses.AllocateAddr(ctx, pool(r), ip, owner)
	taken, ok := errors.AsType[*ipam.TakenError](err)
	if !ok {
		return ip, err
	}
	host, id, _ := strings.Cut(taken.Owner, "/")
	if host != a.id {
		return ip, err
	}
	if strings.HasPrefix(id, holdPrefix) {
		return ip, a.succeed(ctx, r, ip, owner, err)
	}
	if id == from {
		return ip, a.inherit(ctx, r, ip, owner, id, err)
	}
	if freed, freeErr := a.releaseForsaken(ctx, id); freeErr != nil || !freed {
		return ip, errors.Join(err, freeErr)
	}
	return ip, a.Addresses.AllocateAddr(ctx, pool(r), ip, owner)
}

// inTheMaking is how long an address, or an endpoint without an interface, is left to
// whoever requested it. Docker continues within milliseconds, unless it has died.
const inTheMaking = 2 * time.Second

// succeed takes over an address from an earlier hold. It first waits until that hold is
// old enough to be abandoned. It returns taken if the hold was used meanwhile.
func (a *Agent) succeed(ctx context.Context, r network.Record, ip netip.Addr, owner string, taken error) error {
	old, ok := a.holds.find(r.ID, ip)
	if !ok {
		return a.Addresses.AllocateAddr(ctx, pool(r), ip, owner) // it has just been released
	}
	sleep(ctx, time.Until(old.since.Add(a.making)))
	if now, ok := a.holds.take(r.ID, ip); !ok || now.owner != old.owner {
		if ok {
			a.holds.put(now)
		}
		return taken
	}
	err := a.Addresses.Transfer(ctx, old.pool, ip, old.owner, owner)
	if err != nil {
		a.holds.put(old)
	}
	return err
}

// inherit moves an address from the endpoint of a stopped container to a hold. It does so
// in one write, so that nobody else can get the address in between. Then it releases the
// endpoint. It returns taken if the endpoint cannot give up its address.
func (a *Agent) inherit(ctx context.Context, r network.Record, ip netip.Addr, owner, id string, taken error) error {
	unlock, err := a.lockID(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	l, ok := a.table.get(id)
	if !ok { // the endpoint and its address have just been released
		return a.Addresses.AllocateAddr(ctx, pool(r), ip, owner)
	}
	if l.Source != api.SourceDriver || l.Attached || l.Network != r.ID || l.IP != ip {
		return taken
	}
	if err := a.Addresses.Transfer(ctx, pool(r), ip, a.owner(id), owner); err != nil {
		return err
	}
	if err := a.release(ctx, l); err != nil { // the endpoint is marked and no longer owns the address
		a.Logger.Warn("the endpoint of a stopped container has not ended yet; trying on", "endpoint", id, "container", l.ContainerName, "err", err)
		signal(a.kick)
	}
	return nil
}

// releaseForsaken releases an endpoint of Docker's networks if no process is left in its
// namespace. It reports whether it did.
func (a *Agent) releaseForsaken(ctx context.Context, id string) (bool, error) {
	unlock, err := a.lockID(ctx, id)
	if err != nil {
		return false, err
	}
	defer unlock()
	l, ok := a.table.get(id)
	if !ok || l.Source != api.SourceDriver {
		return false, nil
	}
	if !l.Attached && time.Since(l.since) < a.making {
		return false, nil
	}
	if l.Attached {
		lives, err := a.Links.Inhabited(link.HostName(id))
		if err != nil || lives {
			return false, err
		}
	}
	if err := a.release(ctx, l); err != nil {
		return false, err
	}
	a.Logger.Info("released what a container that is gone had", "endpoint", id, "container", l.ContainerName, "network", l.Network, "ip", l.IP)
	return true, nil
}

// Unhold implements api.Service.
func (a *Agent) Unhold(ctx context.Context, networkID, address string) error {
	if err := api.CheckNetworkRef(networkID); err != nil {
		return err
	}
	ip, err := api.ParseIP(address)
	if err != nil {
		return err
	}
	h, ok := a.holds.take(networkID, ip)
	if !ok {
		return nil
	}
	return translate(a.dropHold(ctx, h))
}

// dropHold releases the address of a hold. If that fails, converge tries again.
func (a *Agent) dropHold(ctx context.Context, h hold) error {
	err := a.Addresses.Release(ctx, h.pool, h.owner)
	switch {
	case err != nil:
		h.until = time.Time{}
		a.holds.put(h)
		signal(a.kick)
	case h.doubt && a.doubt > 0:
		h.doubt, h.until = false, time.Now().Add(a.doubt)
		a.holds.put(h)
		a.errands.run(a.doubt+undoTimeout, func(ctx context.Context) {
			sleep(ctx, a.doubt)
			signal(a.kick)
		})
	}
	return err
}

// convergeHolds releases expired holds.
func (a *Agent) convergeHolds(ctx context.Context) error {
	var errs []error
	for _, h := range a.holds.over(time.Now()) {
		errs = append(errs, a.dropHold(ctx, h))
	}
	return errors.Join(errs...)
}
