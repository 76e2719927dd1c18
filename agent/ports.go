package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/firewall"
	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/agent/nat"
)

// claimPorts reserves the endpoint's host ports and returns the endpoint with those that
// were chosen for it. It keeps the ports from before a restart, because there may be
// connections to them.
func (a *Agent) claimPorts(l local) (local, error) {
	if len(l.Ports) == 0 {
		a.HostPorts.Release(l.ID)
		return l, nil
	}
	var ports []nat.Port
	any := false
	for _, p := range l.published() {
		any = any || p.HostPort == 0
		ports = append(ports, hostPort(p))
	}
	if err := a.checkClusterPorts(ports); err != nil {
		return l, err
	}
	got, err := a.HostPorts.Claim(l.ID, ports, a.sharing(l)...)
	if err != nil {
		return l, a.explainPort(err, l)
	}
	if any {
		l.HostPorts = make([]uint16, len(got))
		for i, p := range got {
			l.HostPorts[i] = p.HostPort
		}
	}
	return l, nil
}

// checkClusterPorts refuses ports that carry the cluster's traffic, because packets from
// other hosts would go to the endpoint instead. A check for a socket is not enough: the
// userspace datapath has none, and Consul opens its server port only when this host
// becomes a server.
func (a *Agent) checkClusterPorts(ports []nat.Port) error {
	carry, vtep := append([]firewall.Port{firewall.VXLAN}, a.ConsulPorts...), a.host().VTEP
	for _, p := range ports {
		if ip := anyAddress(p.HostIP); !ip.IsUnspecified() && ip != vtep {
			continue
		}
		for _, c := range carry {
			if p.HostPort == c.Number && (p.Proto == "udp") == (c.Proto == unix.IPPROTO_UDP) {
				return &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf(
					"port %s of this host is one of those that carry the cluster; choose another", p)}
			}
		}
	}
	return nil
}

func hostPort(p api.PortMapping) nat.Port {
	return nat.Port{Proto: p.Proto, HostIP: p.HostIP, HostPort: p.HostPort}
}

// mdnsPort is the port of multicast DNS (RFC 6762).
const mdnsPort = 5353

// explainPort returns an error that names who holds the port.
func (a *Agent) explainPort(err error, l local) error {
	taken, ok := errors.AsType[*nat.PortTakenError](err)
	if !ok {
		return fmt.Errorf("ports of %q: %w", cmp.Or(l.ContainerName, l.ID), err)
	}
	said := func(format string, args ...any) error {
		return &api.Error{Code: api.CodeConflict, Cause: err, Message: fmt.Sprintf(format, args...)}
	}
	switch {
	case taken.Owner == "" && taken.PID == os.Getpid() && taken.Port.Proto == "udp" && taken.Port.HostPort == mdnsPort:
		return said("port %s of this host is taken by SocketPlane's agent itself (mDNS, by which hosts find their cluster); choose another", taken.Port)
	case taken.Owner == "" && taken.PID == os.Getpid():
		return said("port %s of this host is taken by SocketPlane's agent itself; choose another", taken.Port)
	case taken.Owner == "" && taken.Program != "":
		return said("port %s of this host is taken by the program %q (pid %d); choose another, or end that program", taken.Port, taken.Program, taken.PID)
	case taken.Owner == "":
		return said("port %s of this host is taken by another program; choose another, or end that program", taken.Port)
	case taken.Owner == l.ID:
		return said("port %s of this host is published twice by %q; leave one out", taken.Port, cmp.Or(l.ContainerName, l.ID))
	}
	if other, ok := a.table.get(taken.Owner); ok && other.container() == l.container() {
		return said("port %s of this host is published by the same container on network %q, and leads to another of its ports; leave one out",
			taken.Port, other.Network)
	}
	return said("port %s of this host is taken by %q; choose another, or stop that container",
		taken.Port, a.endpointName(l.Network, a.id, taken.Owner))
}

// openPorts forwards the endpoint's published ports to it. Existing UDP flows to those
// ports that went elsewhere are forgotten, so that their next packets reach the endpoint.
func (a *Agent) openPorts(ctx context.Context, l local) error {
	if len(l.Ports) == 0 {
		return nil
	}
	if err := a.nat.Do(ctx); err != nil {
		return err
	}
	return a.forget(ctx, link.Stale{UDP: overUDP(a.led(l)), Keep: l.IP})
}

// closePorts reverts openPorts for an endpoint that is no longer attached.
func (a *Agent) closePorts(ctx context.Context, l local) error {
	a.HostPorts.Release(l.ID)
	a.clearNotes(notePorts + l.ID)
	if len(l.Ports) == 0 && !l.Served {
		return nil
	}
	if err := a.nat.Do(ctx); err != nil {
		return err
	}
	return a.forget(ctx, link.Stale{Addr: l.IP})
}

// forget ends connections that the kernel would otherwise continue. If the kernel does
// not support that, UDP connections end by themselves when they are idle for a while.
func (a *Agent) forget(ctx context.Context, s link.Stale) error {
	err := a.Links.ForgetConnections(ctx, s)
	if errors.Is(err, errors.ErrUnsupported) {
		a.Logger.Warn("connections of before a port was published, or taken back, go on until they are idle", "err", err)
		return nil
	}
	return err
}

func anyAddress(ip netip.Addr) netip.Addr {
	if !ip.IsValid() {
		return netip.IPv4Unspecified()
	}
	return ip
}

// publishedHere lists the published ports of all attached endpoints on this host, in no
// order.
func (a *Agent) publishedHere() []nat.Published {
	publishing := a.table.published()
	all := make([]nat.Published, 0, len(publishing))
	for _, l := range publishing {
		if !l.Attached {
			continue
		}
		for _, p := range a.led(l) {
			// A port from before a restart may carry the cluster's traffic now. Status
			// reports it.
			if p.HostPort != 0 && a.checkClusterPorts([]nat.Port{hostPort(p)}) == nil {
				all = append(all, nat.Published{Port: hostPort(p), To: netip.AddrPortFrom(l.IP, p.ContainerPort)})
			}
		}
	}
	return all
}

// convergeClaims reserves again the ports of endpoints from before a restart. If a
// program has taken a port meanwhile, Status reports that. The rules stay and still
// forward to the endpoint.
func (a *Agent) convergeClaims() {
	var noted []string
	for _, l := range a.table.published() {
		if !l.Attached {
			continue
		}
		unlock, ok := a.names.TryLock(link.HostName(l.ID))
		if !ok {
			a.skipped.Add(1) // the lock's holder handles its ports
			noted = append(noted, notePorts+l.ID)
			continue
		}
		if err := a.claimAgain(l.ID); err != nil {
			noted = append(noted, notePorts+l.ID)
			a.note(notePorts+l.ID, err.Error())
		}
		unlock()
	}
	a.clearNotes(notePorts, noted...)
}

func (a *Agent) claimAgain(id string) error {
	l, ok := a.table.get(id)
	if !ok || !l.Attached {
		return nil
	}
	now, err := a.claimPorts(l)
	if err == nil && !slices.Equal(now.HostPorts, l.HostPorts) {
		a.table.put(now)
	}
	return err
}

// Publish implements api.Service.
func (a *Agent) Publish(ctx context.Context, id string, ports []api.PortMapping) (api.Endpoint, error) {
	if err := api.CheckEndpointID(id); err != nil {
		return api.Endpoint{}, err
	}
	if err := api.CheckPorts(ports); err != nil {
		return api.Endpoint{}, err
	}
	// A caller that withdraws ports will detach the endpoint next. It must not wait:
	// dockerd withdraws the ports of all its containers, one after the other, before it
	// answers.
	known := a.awaitLoaded
	if len(ports) == 0 {
		known = func(context.Context) error { return a.checkLoaded() }
	}
	if err := known(ctx); err != nil {
		return api.Endpoint{}, err
	}
	unlock, err := a.lockID(ctx, id)
	if err != nil {
		return api.Endpoint{}, err
	}
	defer unlock()
	l, ok := a.table.get(id)
	if !ok || l.Releasing {
		return api.Endpoint{}, api.Errorf(api.CodeNotFound, "endpoint %q is not there; see: socketplane info", id)
	}
	if l, err = a.republish(ctx, l, ports); err != nil {
		return api.Endpoint{}, translate(err)
	}
	return a.shown(l, a.recordHere(l.Network)), nil
}

// republish replaces the published ports of an endpoint. On failure the endpoint keeps
// the old ones. The caller holds the endpoint's lock.
func (a *Agent) republish(ctx context.Context, l local, ports []api.PortMapping) (local, error) {
	if slices.Equal(l.Ports, ports) {
		return l, nil
	}
	before := l
	l.Ports, l.HostPorts = ports, nil
	if !l.Attached {
		a.table.put(l)
		signal(a.kick) // publishes the list
		return l, nil
	}
	l, err := a.claimPorts(l)
	if err != nil {
		return before, err
	}
	l.Served = l.Served || len(before.Ports) > 0
	a.table.put(l)
	signal(a.kick) // publishes the list
	if err := a.lead(ctx, before, l); err != nil {
		var undo undoStack
		undo.push(func(ctx context.Context) error { return a.unpublishPorts(ctx, l, before) })
		return before, a.takeBack(ctx, undo, err)
	}
	return l, nil
}

// lead switches the packet filter from the ports of before to those of now.
func (a *Agent) lead(ctx context.Context, before, now local) error {
	// A restart of the agent restores the ports from the external_ids on the bridge, and
	// it may happen at any time. So write those first.
	if err := errors.Join(a.mendPort(ctx, now.ID), a.nat.Do(ctx)); err != nil {
		return err
	}
	// Open TCP connections continue. UDP has no connections, so forget its flows.
	gone := slices.DeleteFunc(slices.Clone(before.published()), func(p api.PortMapping) bool { return slices.Contains(now.published(), p) })
	return errors.Join(a.forget(ctx, link.Stale{UDP: overUDP(gone)}), a.openPorts(ctx, now))
}

// unpublishPorts reverts republish, wholly or in part, unless the endpoint has gone.
func (a *Agent) unpublishPorts(ctx context.Context, tried, before local) error {
	l, ok := a.table.get(before.ID)
	if !ok || l.Releasing {
		return nil
	}
	l.Ports, l.HostPorts = before.Ports, nil
	if !l.Attached {
		a.table.put(l)
		return nil
	}
	l.HostPorts = before.HostPorts
	l.Served = l.Served || len(tried.Ports) > 0
	_, err := a.claimPorts(l) // Status reports it if another endpoint has taken a port meanwhile
	a.table.put(l)
	return errors.Join(err, a.lead(ctx, tried, l))
}

// overUDP returns the host's address and port of each UDP port.
func overUDP(ports []api.PortMapping) []netip.AddrPort {
	var all []netip.AddrPort
	for _, p := range ports {
		if p.Proto == api.ProtoUDP {
			all = append(all, netip.AddrPortFrom(anyAddress(p.HostIP), p.HostPort))
		}
	}
	return all
}
