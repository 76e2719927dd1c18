package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/firewall"
	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/agent/nat"
)

const (
	// restoreDelay lets what others change in one go, such as a firewall that is
	// reloaded, come to its end.
	restoreDelay = 50 * time.Millisecond
	// restorePause paces restoring while others change things without end.
	restorePause = time.Second
	// restoreTimeout bounds one restoring.
	restoreTimeout = 10 * time.Second
)

// watchHost puts back what somebody takes from the host's own network, as soon as
// the kernel tells. It needs no store: what should be is known since the last pass
// of converge, and converge compares the same things on its slow timer.
func (a *Agent) watchHost(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	done := make(chan error, 1)
	go func() { done <- a.Links.WatchHost(ctx, a.NAT.Wrote, func() { signal(changed) }) }()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			continue
		case <-changed:
		}
		sleep(ctx, restoreDelay)
		select {
		case <-changed: // of the same change
		default:
		}
		if ctx.Err() != nil || !a.isLoaded() {
			continue // the next pass of converge compares everything
		}
		if err := a.restoreHost(ctx); err != nil && ctx.Err() == nil {
			a.Logger.Warn("what was taken from the host's network is not all back; trying on", "err", err)
			signal(a.kick)
		}
		sleep(ctx, restorePause)
	}
	return <-done
}

// restoreHost compares everything that is set on the host's own network.
func (a *Agent) restoreHost(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, restoreTimeout)
	defer cancel()
	errs := []error{a.findUplinks(ctx), a.convergeHost(ctx)}
	for _, seg := range a.segments.list() {
		if seg.ofport != 0 {
			errs = append(errs, a.restoreGateway(ctx, seg.record.ID))
		}
	}
	a.compareNAT.Store(true)
	return errors.Join(append(errs, a.nat.Do(ctx))...)
}

// restoreGateway puts back what was taken from a gateway port in the kernel.
func (a *Agent) restoreGateway(ctx context.Context, networkID string) error {
	unlock, err := a.segments.locks.Lock(ctx, networkID)
	if err != nil {
		return err
	}
	defer unlock()
	r, ok := a.segments.record(networkID)
	if !ok || a.segments.port(networkID) == 0 {
		return nil // it is going, or coming
	}
	err = a.Links.EnsureGateway(ctx, a.gatewayOf(r))
	if errors.Is(err, link.ErrNotFound) { // the switch's: converge makes it
		signal(a.kick)
		return nil
	}
	return err
}

// convergeHost compares what is set on the host beside its gateways and the rules
// that lead packets: forwarding, the firewall, and the host's ends of endpoints.
func (a *Agent) convergeHost(ctx context.Context) error {
	errs := []error{a.Links.PrepareHost(a.userspace()), a.convergeFirewall(ctx)}
	var ends []link.HostEnd
	for _, l := range a.table.all() {
		if l.Attached {
			ends = append(ends, link.HostEnd{Name: link.HostName(l.ID), Userspace: a.userspace()})
		}
	}
	return errors.Join(append(errs, a.Links.EnsureHostEnds(ctx, ends))...)
}

// convergeFirewall has the cluster's ports closed. A kernel that cannot do it is told
// by Status, and keeps the host from nothing else.
func (a *Agent) convergeFirewall(ctx context.Context) error {
	err := a.Firewall.Set(ctx, a.firewallRules())
	if errors.Is(err, firewall.ErrUnsupported) {
		a.note(noteFirewall, fmt.Sprintf("containers reach the ports that carry the cluster: %v; use a kernel with nf_tables and nft_fib_ipv4", err))
		return nil
	}
	a.clearNotes(noteFirewall)
	return err
}

// closeClusterPorts closes the cluster's ports before the hosts of the cluster are
// known, unless an earlier life has left what it knew.
func (a *Agent) closeClusterPorts(ctx context.Context) error {
	if err := a.findUplinks(ctx); err != nil {
		return err // without the underlay the hosts themselves would be shut out
	}
	return a.Firewall.Close(ctx, a.firewallRules())
}

// findUplinks looks which interfaces lead out of the host. When it cannot, those
// that it saw last stand. Which subnets are on the others says where no host can be,
// so the hosts are judged anew when that changes.
func (a *Agent) findUplinks(ctx context.Context) error {
	up, err := a.Links.Uplinks(ctx, a.host().VTEP)
	if err != nil {
		return err
	}
	var bridges []string
	if a.DenyForward {
		if bridges, err = a.Links.DockersBridges(ctx); err != nil {
			return err
		}
		bridges = slices.DeleteFunc(bridges, func(name string) bool { return !nat.IsUplinkName(name) })
	}
	for _, name := range a.Uplinks {
		if !slices.Contains(up.Names, name) {
			up.Names = append(up.Names, name)
		}
	}
	up.Names = slices.DeleteFunc(up.Names, func(name string) bool { return !nat.IsUplinkName(name) })
	a.mu.Lock()
	news := a.uplinks.Silent != up.Silent || !slices.Equal(a.uplinks.Subnets, up.Subnets) || !slices.Equal(a.uplinks.Names, up.Names)
	a.uplinks, a.bridges = up, bridges
	a.mu.Unlock()
	a.noteUplinks(up)
	if !news {
		return nil
	}
	before := a.trusted()
	a.judge()
	if !slices.EqualFunc(before, a.trusted(), func(a, b cluster.Host) bool { return a.ID == b.ID && a.VTEP == b.VTEP }) {
		signal(a.kick) // for the tunnels
	}
	return nil
}

func (a *Agent) uplinksNow() link.Uplinks {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.uplinks // replaced whole, never changed
}

func (a *Agent) bridgesNow() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.bridges // replaced whole, never changed
}

// noteUplinks says where no way out of this host is known.
func (a *Agent) noteUplinks(up link.Uplinks) {
	if vtep := a.host().VTEP; up.Silent && len(up.Carriers()) == 0 {
		a.note(noteUplink, fmt.Sprintf("the tunnel address %s is on interface %s, by which no packet comes, and no other interface is known to lead out of this host: "+
			"hosts that join do not reach this one, and containers do not leave it; add the interfaces that lead to the other hosts to uplinks in section [network] of this host's settings",
			vtep, up.Underlay))
		return
	}
	a.clearNotes(noteUplink)
}

// firewallRules say who may speak to the ports that carry the cluster.
func (a *Agent) firewallRules() firewall.Rules {
	r := firewall.Rules{
		Underlay: a.uplinksNow().Carriers(), Consul: a.ConsulPorts, Userspace: a.userspace(),
		GatewayPrefix: link.GatewayPrefix, EndpointPrefix: link.HostPrefix,
	}
	if !a.view.complete() {
		return r
	}
	r.Hosts = []netip.Addr{}
	if vtep := a.host().VTEP; vtep.Is4() {
		r.Hosts = append(r.Hosts, vtep)
	}
	// What the records say, where a host can be, and where the tunnels lead: a record
	// that somebody else changed must not open the ports of the host that it is of.
	a.judged.mu.Lock()
	for _, vtep := range a.judged.verdict.Hosts {
		if vtep.Is4() {
			r.Hosts = append(r.Hosts, vtep)
		}
	}
	a.judged.mu.Unlock()
	for _, h := range a.trusted() {
		if h.VTEP.Is4() {
			r.Hosts = append(r.Hosts, h.VTEP)
		}
	}
	slices.SortFunc(r.Hosts, netip.Addr.Compare)
	r.Hosts = slices.Compact(r.Hosts)
	return r
}
