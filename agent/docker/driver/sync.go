package driver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/docker"
)

const (
	// syncEvery is the interval of comparisons while nothing seems to change.
	syncEvery = 30 * time.Second
	// syncRetry is the interval of comparisons while something fails.
	syncRetry = time.Second
	// syncTimeout bounds one comparison, including Docker's calls to the driver for the
	// networks that it creates.
	syncTimeout = 30 * time.Second
	// youth is the longest time between the creation of a user's Docker network and the
	// start of this driver after which the network may still have to enter the cluster,
	// see young.
	youth = 30 * time.Second
)

// Run keeps one Docker network for each network of the cluster, and describes joined
// containers to the agent. It returns nil when ctx ends, or an error if the Docker address
// is invalid.
func (d *Driver) Run(ctx context.Context) error {
	engine, err := docker.Dial(d.Docker)
	if err != nil {
		return err
	}
	defer engine.Close() //nolint:errcheck // the program ends
	d.follow(ctx, engine)
	return nil
}

// follow is Run with a connected engine.
func (d *Driver) follow(ctx context.Context, engine *docker.Engine) {
	var beside sync.WaitGroup
	beside.Go(func() { d.describe(ctx, engine) })
	beside.Go(func() { d.payOwed(ctx) })
	beside.Go(func() { d.keep(ctx, engine) })
	beside.Go(func() { d.keepCreated(ctx, engine) })
	defer beside.Wait()
	var said string
	for ctx.Err() == nil {
		wait := syncEvery
		if err := d.sync(ctx, engine); err != nil && ctx.Err() == nil {
			if err.Error() != said {
				d.Logger.Warn("docker's networks are not as they should be; trying on", "err", err)
			}
			said, wait = err.Error(), syncRetry
		} else if said != "" {
			d.Logger.Info("docker's networks are as they should be")
			said = ""
		}
		if d.known.waiting() { // Docker's list has the name as well as the event
			wait = syncRetry
		}
		d.await(ctx, wait)
	}
}

// await waits for a reason to compare the networks.
func (d *Driver) await(ctx context.Context, wait time.Duration) {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-d.kick:
	case <-d.Changed:
	}
}

// sync makes Docker's networks match those of the cluster, once.
func (d *Driver) sync(ctx context.Context, engine *docker.Engine) error {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	errs := []error{d.keepReserved(ctx)} // first, because Docker may not answer
	asked := time.Now()
	there, err := engine.Networks(ctx)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	ids := map[string]bool{}
	for _, dn := range there {
		ids[dn.ID] = true
	}
	d.known.listed(ids, asked)
	// If Docker has two networks for one of ours, keep a user's, or else the older one.
	slices.SortFunc(there, func(a, b docker.Network) int {
		if a.ByAgent() != b.ByAgent() { // its user may refer to it by id
			if a.ByAgent() {
				return 1
			}
			return -1
		}
		return a.Created.Compare(b.Created)
	})
	// Read the cluster after Docker. A network that a user creates through Docker is then
	// in the cluster by the time it is in Docker's list, or it still waits for its name.
	networks, err := d.Service.Networks(ctx)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	bySubnet := map[netip.Prefix]api.Network{}
	pools := map[netip.Prefix]string{}
	for _, n := range networks {
		bySubnet[n.Subnet], pools[n.Subnet] = n, n.ID
	}
	d.known.setPools(pools)
	present := map[string]bool{}
	names := map[string]string{} // of Docker's networks -> driver
	for _, dn := range there {
		if dn.Driver != docker.DriverName {
			names[dn.Name] = dn.Driver
			continue
		}
		n, ok := bySubnet[dn.Subnet]
		if ok && standsFor(dn, n) {
			if present[n.ID] {
				errs = append(errs, d.remove(ctx, engine, dn, n.ID))
				continue
			}
			present[n.ID] = d.known.bind(dn.ID, n.ID, n.Subnet)
			continue
		}
		if err := d.stranger(ctx, engine, dn); err != nil {
			errs = append(errs, err)
			present[dn.Name] = true // its name is not free yet
		}
	}
	d.known.setCompared()
	for _, n := range networks {
		if present[n.ID] {
			continue
		}
		if d.known.leaving(n.ID) {
			errs = append(errs, fmt.Errorf("network %q: Docker is removing it", n.ID))
			continue
		}
		if d.known.expected(n.ID) {
			errs = append(errs, fmt.Errorf("network %q: Docker is still making it", n.ID))
			continue
		}
		if driver, taken := names[docker.NetworkName(n.ID)]; taken {
			errs = append(errs, fmt.Errorf("network %q: Docker has another network of the name %q (driver %s); rename or remove that one", n.ID, docker.NetworkName(n.ID), driver))
			continue
		}
		errs = append(errs, d.make(ctx, engine, n))
	}
	return errors.Join(errs...)
}

// standsFor reports whether a Docker network is that of n, which has the same subnet: its
// option or its name refers to n. Another host may have taken the subnet while a user's
// Docker network waited for its name.
func standsFor(dn docker.Network, n api.Network) bool {
	return dn.StandsFor() == n.ID
}

// make creates the Docker network of a network of the cluster. Docker may delete it before
// it answers, either as a rollback of a failed write or for a user who has seen it in the
// list. The answer shows which of the two it was.
func (d *Driver) make(ctx context.Context, engine *docker.Engine, n api.Network) error {
	spec, err := d.spec(ctx, n)
	if err != nil {
		return err
	}
	end := d.known.begin(n.Subnet, n.ID)
	_, err = engine.CreateNetwork(ctx, spec)
	if removed := end(err); removed {
		return d.deleteLate(segment{n.ID, n.Subnet})
	}
	if err != nil {
		return err
	}
	d.Logger.Info("docker has the network", "network", n.ID, "docker_name", docker.NetworkName(n.ID))
	return nil
}

// spec returns the Docker network to create. It has the options and labels that a Docker
// user gave the network on some host, so that Compose accepts it as its own on this host
// too.
func (d *Driver) spec(ctx context.Context, n api.Network) (docker.NetworkSpec, error) {
	spec := docker.NetworkSpec{
		Name: docker.NetworkName(n.ID), Driver: docker.DriverName, Subnet: n.Subnet, Gateway: n.Gateway,
		Options: map[string]string{docker.OptionNetwork: n.ID}, Labels: map[string]string{},
	}
	if n.ByDocker {
		given, err := d.Service.DockerSpec(ctx, n.ID, n.Subnet)
		if err != nil {
			return spec, err
		}
		// The Docker name identifies the network, so the option is needed only if the user
		// set it. Compose rejects a network with an option that is not in its file.
		name, asked := given.Options[docker.OptionNetwork]
		if spec.Options, err = d.honoured(ctx, n.ID, given.Options); err != nil {
			return spec, err
		}
		if asked && name != n.ID || spec.Name != n.ID {
			spec.Options[docker.OptionNetwork] = n.ID
		}
		maps.Copy(spec.Labels, given.Labels)
		spec.Aux = given.Aux
	}
	spec.Labels[docker.LabelAgent] = "true"
	return spec, nil
}

// stranger handles a Docker network that matches no network of the cluster. Either a user
// has just created it, or its network is gone.
func (d *Driver) stranger(ctx context.Context, engine *docker.Engine, dn docker.Network) error {
	w, awaited := d.known.awaited(dn.ID)
	_, bound := d.known.network(dn.ID) // it was in the cluster and no longer is
	if !awaited && !bound && !dn.ByAgent() && dn.Options[docker.OptionNetwork] == "" && d.known.young(dn.Created) {
		w, awaited = wish{subnet: dn.Subnet, gateway: dn.Gateway}, true
	}
	if awaited {
		return d.named(ctx, engine, dn, w)
	}
	name := dn.StandsFor()
	// An unreadable record does not mean that the network is gone.
	if n, err := d.Service.Network(ctx, name); err == nil && n.Subnet == dn.Subnet || err != nil && api.CodeOf(err) != api.CodeNotFound {
		return err
	}
	return d.remove(ctx, engine, dn, name)
}

// remove removes one of Docker's networks and leaves the network of the cluster alone.
func (d *Driver) remove(ctx context.Context, engine *docker.Engine, dn docker.Network, network string) error {
	bound, _ := d.known.forget(dn.ID) // otherwise the driver would take Docker's call for a user's
	defer d.known.removes(dn.ID)()
	if err := engine.RemoveNetwork(ctx, dn.ID); err != nil {
		if bound != "" {
			d.known.bind(dn.ID, bound, dn.Subnet)
		}
		return err
	}
	d.Logger.Info("docker's network is removed", "network", network, "docker_name", dn.Name)
	return nil
}

// named enters a user's Docker network in the cluster, now that its name is known. If the
// cluster rejects the network, named removes it from Docker.
func (d *Driver) named(ctx context.Context, engine *docker.Engine, dn docker.Network, w wish) error {
	id, network := dn.ID, docker.ClusterName(dn.Name)
	w.given = api.DockerSpec{Options: dn.Options, Labels: dn.Labels, Aux: dn.Aux}
	entered, ok, err := d.known.enters(ctx, id)
	if err != nil || !ok {
		return err
	}
	d.known.expect(network, id) // Docker may have sent its list before it contained the network
	err = d.enter(ctx, id, network, w)
	entered()
	switch api.CodeOf(err) {
	case api.CodeInvalid, api.CodeConflict, api.CodeExhausted:
		d.Logger.Error("a docker network cannot be a network of the cluster and is removed", "docker_name", dn.Name, "err", err)
		d.known.forget(id)
		d.known.unexpect(network, id)
		d.unreserve(w.subnet)
		defer d.known.removes(id)()
		return engine.RemoveNetwork(ctx, id)
	}
	return err
}
