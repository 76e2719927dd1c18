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
	// restoreDelay lets others finish a change of several steps, such as a firewall
	// reload, before the agent reacts.
	restoreDelay = 50 * time.Millisecond
	// restorePause is the minimum pause between restores if others keep changing things.
	restorePause = time.Second
	// restoreTimeout bounds one restore.
	restoreTimeout = 10 * time.Second
)

// watchHost restores the settings of the host's own network when the kernel reports that
// something has changed. It does not need the store: the last converge pass has left the
// desired state, and converge compares the same things on its slow timer.
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
		case <-changed: // part of the same change
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

// restoreHost compares and repairs everything that the agent sets on the host's own
// network.
func (a *Agent) restoreHost(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, restoreTimeout)
	defer cancel()
	errs := []error{a.findUplinks(ctx), a.convergeHost(ctx)}
	a.compareNAT.Store(true)
	errs = append(errs, a.nat.Do(ctx)) // before the gateways, of which one may take long
	for _, seg := range a.segments.list() {
		if seg.ofport != 0 {
			errs = append(errs, a.restoreGateway(ctx, seg.record.ID))
		}
	}
	return errors.Join(errs...)
}

// restoreGateway restores what was removed from a gateway port in the kernel. If the
// network's lock is held, restoreGateway leaves that to a pass of converge, because the
// holder may be waiting for the store.
func (a *Agent) restoreGateway(ctx context.Context, networkID string) error {
	unlock, ok := a.segments.locks.TryLock(networkID)
	if !ok {
		a.skipped.Add(1)
		signal(a.kick)
		return nil
	}
	defer unlock()
	r, ok := a.segments.record(networkID)
	if !ok || a.segments.port(networkID) == 0 {
		return nil // the gateway is being removed or created
	}
	err := a.Links.EnsureGateway(ctx, a.gatewayOf(r))
	if errors.Is(err, link.ErrNotFound) { // the switch has lost the port: converge creates it again
		signal(a.kick)
		return nil
	}
	return err
}

// convergeHost repairs the host settings other than gateways and NAT rules: forwarding,
// the firewall, and the host ends of endpoints.
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

// convergeFirewall closes the cluster's ports. If the kernel does not support that,
// Status reports it, and the host works otherwise.
func (a *Agent) convergeFirewall(ctx context.Context) error {
	err := a.Firewall.Set(ctx, a.firewallRules())
	if errors.Is(err, firewall.ErrUnsupported) {
		a.note(noteFirewall, fmt.Sprintf("containers reach the ports that carry the cluster: %v; use a kernel with nf_tables and nft_fib_ipv4", err))
		return nil
	}
	a.clearNotes(noteFirewall)
	return err
}

// closeClusterPorts closes the cluster's ports before the hosts of the cluster are known.
// It keeps rules that were left from before a restart.
func (a *Agent) closeClusterPorts(ctx context.Context) error {
	if err := a.findUplinks(ctx); err != nil {
		return err // without the underlay, the rules would lock out the other hosts
	}
	return a.Firewall.Close(ctx, a.firewallRules())
}

// findUplinks determines which interfaces lead out of the host. On failure the last
// result stays. The subnets on the other interfaces are where no host can be, so a change
// there requires a new judgement of the hosts.
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
	// Docker may be told to use a bridge that is itself an uplink. What passes there goes
	// through the uplink's own rules.
	bridges = slices.DeleteFunc(bridges, func(name string) bool { return slices.Contains(up.Names, name) })
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
		signal(a.kick) // to update the tunnels
	}
	return nil
}

func (a *Agent) uplinksNow() link.Uplinks {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.uplinks // replaced as a whole, never modified
}

func (a *Agent) bridgesNow() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.bridges // replaced as a whole, never modified
}

// noteUplinks reports in Status if no interface is known to lead out of this host.
func (a *Agent) noteUplinks(up link.Uplinks) {
	if vtep := a.host().VTEP; up.Silent && len(up.Carriers()) == 0 {
		a.note(noteUplink, fmt.Sprintf("the tunnel address %s is on interface %s, by which no packet comes, and no other interface is known to lead out of this host: "+
			"hosts that join do not reach this one, and containers do not leave it; add the interfaces that lead to the other hosts to uplinks in section [network] of this host's settings",
			vtep, up.Underlay))
		return
	}
	a.clearNotes(noteUplink)
}

// firewallRules returns the rules that restrict access to the cluster's ports.
func (a *Agent) firewallRules() firewall.Rules {
	r := firewall.Rules{
		Underlay: a.uplinksNow().Carriers(), Consul: a.ConsulPorts, Userspace: a.userspace(), Marked: a.tunnelsMarked(),
		GatewayPrefix: link.GatewayPrefix, EndpointPrefix: link.HostPrefix,
	}
	if !a.view.complete() {
		return r
	}
	r.Hosts = []netip.Addr{}
	if vtep := a.host().VTEP; vtep.Is4() {
		r.Hosts = append(r.Hosts, vtep)
	}
	// The hosts are the addresses in the records, where those are plausible, and the ends
	// of the tunnels. The latter matter because a record that somebody else changed must
	// not close the ports to the host it belongs to.
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
