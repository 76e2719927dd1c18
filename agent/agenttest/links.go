package agenttest

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/socketplane/socketplane/agent/firewall"
	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/agent/nat"
)

// Links is an in-memory implementation of agent.Links. A path that starts with /ns/ is a
// namespace until RemoveNetNS removes it.
type Links struct {
	calls *Calls

	mu       sync.Mutex
	veths    map[string]*veth // by the host's end
	gateways map[string]link.Gateway
	gone     map[string]bool // removed namespaces
	dead     map[string]bool // namespaces without a process
	lost     chan string     // host ends that disappeared with their namespace
	taken    map[string]bool // namespace + " " + interface, used by others
	changed  chan struct{}   // see WatchHost
	bridges  []string        // see DockersBridges

	forgotten []link.Stale
	uplinks   link.Uplinks
	neighbors map[netip.Addr]link.Neighbor
}

type veth struct {
	link.Veth
	hostMTU int
	config  *link.Config // nil if not configured
}

// NewLinks returns a host without devices.
func NewLinks(c *Calls) *Links {
	return &Links{calls: c, veths: map[string]*veth{}, gateways: map[string]link.Gateway{}, gone: map[string]bool{}, dead: map[string]bool{}, lost: make(chan string, 64), taken: map[string]bool{}, changed: make(chan struct{}, 1), uplinks: link.Uplinks{Underlay: "eth0", Names: []string{"eth0"}}}
}

func (l *Links) isNetNS(path string) bool { return strings.HasPrefix(path, "/ns/") && !l.gone[path] }

// EnsureVeth creates a pair. It replaces a pair whose peer is elsewhere.
func (l *Links) EnsureVeth(ctx context.Context, v link.Veth) error {
	return l.calls.do(ctx, "Links.EnsureVeth", func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if v.NetNS != "" && !l.isNetNS(v.NetNS) {
			return fmt.Errorf("%q: %w", v.NetNS, link.ErrNotNamespace)
		}
		if old := l.veths[v.Host]; old != nil && old.NetNS == v.NetNS && old.IfName == v.IfName {
			return nil
		}
		delete(l.veths, v.Host)
		if v.NetNS != "" && l.occupied(v.NetNS, v.IfName) {
			return fmt.Errorf("%q: %w", v.IfName, link.ErrExists)
		}
		l.veths[v.Host] = &veth{Veth: v, hostMTU: v.MTU}
		return nil
	})
}

func (l *Links) occupied(ns, name string) bool {
	for _, v := range l.veths {
		if v.NetNS == ns && v.IfName == name {
			return true
		}
	}
	return l.taken[ns+" "+name]
}

// DeleteVeth deletes a pair if it exists.
func (l *Links) DeleteVeth(ctx context.Context, host string) error {
	return l.calls.do(ctx, "Links.DeleteVeth", func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.veths, host)
		return nil
	})
}

// Configure sets up the peer in the namespace.
func (l *Links) Configure(ctx context.Context, peer, nsPath string, c link.Config) error {
	return l.calls.do(ctx, "Links.Configure", func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if !l.isNetNS(nsPath) {
			return fmt.Errorf("%q: %w", nsPath, link.ErrNotNamespace)
		}
		for _, v := range l.veths {
			if v.Peer == peer && v.NetNS == nsPath && v.IfName == c.IfName {
				v.config = &c
				return nil
			}
		}
		if l.occupied(nsPath, c.IfName) {
			return fmt.Errorf("%q: %w", c.IfName, link.ErrExists)
		}
		return fmt.Errorf("%q: %w", peer, link.ErrNotFound)
	})
}

// Inspect returns the state of a host end.
func (l *Links) Inspect(host string) (link.State, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.veths[host]
	if v == nil {
		return link.State{}, nil
	}
	return link.State{Exists: true, Up: true, MTU: v.hostMTU, PeerMoved: v.NetNS != ""}, nil
}

// Peer returns the name and the MAC of the peer in a namespace.
func (l *Links) Peer(host, nsPath string) (link.Peer, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.veths[host]
	if v == nil || v.NetNS != nsPath || !l.isNetNS(nsPath) {
		return link.Peer{}, link.ErrNotFound
	}
	return link.Peer{Name: v.IfName, MAC: v.MAC}, nil
}

// SetPeerMAC changes the MAC of the peer, as a later CNI plugin may do.
func (l *Links) SetPeerMAC(host, mac string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.veths[host].MAC = mac
}

// PeerIn reports whether the peer is in the namespace.
func (l *Links) PeerIn(host, nsPath string) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.veths[host]
	return v != nil && v.NetNS == nsPath && l.isNetNS(nsPath), nil
}

// Inhabited reports whether the peer's namespace has a process. Kill ends that.
func (l *Links) Inhabited(host string) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.veths[host]
	return v != nil && !l.dead[v.NetNS], nil
}

// WatchGone reports the host ends that RemoveNetNS deletes.
func (l *Links) WatchGone(ctx context.Context, gone func(host string)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case host := <-l.lost:
			gone(host)
		}
	}
}

// Kill ends the processes of a namespace. The namespace remains.
func (l *Links) Kill(path string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead[path] = true
}

// Move moves the peer into a namespace, as the caller does after a hand-over.
func (l *Links) Move(peer, path, ifName string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, v := range l.veths {
		if v.Peer == peer {
			v.NetNS, v.IfName = path, ifName
		}
	}
}

// SetMTU sets the MTU of a host end.
func (l *Links) SetMTU(ctx context.Context, name string, mtu int) error {
	return l.calls.do(ctx, "Links.SetMTU", func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if v := l.veths[name]; v != nil {
			v.hostMTU = mtu
			return nil
		}
		return link.ErrNotFound
	})
}

// SetPeerMTU sets the MTU of the peer in a namespace.
func (l *Links) SetPeerMTU(ctx context.Context, host, nsPath string, mtu int) error {
	return l.calls.do(ctx, "Links.SetPeerMTU", func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		v := l.veths[host]
		if v == nil || v.NetNS != nsPath {
			return link.ErrNotFound
		}
		if v.MTU = mtu; v.config != nil {
			v.config.MTU = mtu
		}
		return nil
	})
}

// HostVeths lists the host ends, sorted.
func (l *Links) HostVeths() ([]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.veths)), nil
}

// EnsureGateway records g. With KeepRoutes it adds the routes to those of the last call.
func (l *Links) EnsureGateway(ctx context.Context, g link.Gateway) error {
	return l.calls.do(ctx, "Links.EnsureGateway", func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if g.KeepRoutes {
			for _, r := range l.gateways[g.Name].Routes {
				if !slices.ContainsFunc(g.Routes, func(n link.Route) bool { return n.Prefix == r.Prefix }) {
					g.Routes = append(g.Routes, r)
				}
			}
		}
		l.gateways[g.Name] = g
		return nil
	})
}

// Neighbor returns what SetNeighbor has set.
func (l *Links) Neighbor(ctx context.Context, addr netip.Addr) (n link.Neighbor, err error) {
	err = l.calls.do(ctx, "Links.Neighbor", func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		var ok bool
		if n, ok = l.neighbors[addr]; !ok {
			return link.ErrNotFound
		}
		return nil
	})
	return n, err
}

// SetNeighbor makes n the next hop to addr.
func (l *Links) SetNeighbor(addr netip.Addr, n link.Neighbor) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.neighbors == nil {
		l.neighbors = map[netip.Addr]link.Neighbor{}
	}
	l.neighbors[addr] = n
}

// ForgetConnections records s.
func (l *Links) ForgetConnections(ctx context.Context, s link.Stale) error {
	return l.calls.do(ctx, "Links.ForgetConnections", func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.forgotten = append(l.forgotten, s)
		return nil
	})
}

// Forgotten lists the arguments of all calls of ForgetConnections.
func (l *Links) Forgotten() []link.Stale {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.forgotten)
}

// Gateway returns the last argument of EnsureGateway with this name.
func (l *Links) Gateway(name string) link.Gateway {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gateways[name]
}

// AddVeth adds a stray pair.
func (l *Links) AddVeth(host string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.veths[host] = &veth{Veth: link.Veth{Host: host}}
}

// RemoveNetNS removes a namespace and the pairs in it.
func (l *Links) RemoveNetNS(path string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone[path] = true
	maps.DeleteFunc(l.veths, func(host string, v *veth) bool {
		if v.NetNS == path {
			select {
			case l.lost <- host:
			default: // no watcher is reading
			}
		}
		return v.NetNS == path
	})
}

// Occupy adds a foreign interface to a namespace.
func (l *Links) Occupy(path, name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taken[path+" "+name] = true
}

// State describes the pairs, one per line, sorted.
func (l *Links) State() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var lines []string
	for host, v := range l.veths {
		line := fmt.Sprintf("veth %s in %s as %s mtu %d", host, v.NetNS, v.IfName, v.hostMTU)
		if v.config != nil {
			line += fmt.Sprintf(" has %s mtu %d", v.config.Addr, v.config.MTU)
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines
}

// WatchHost reports calls of LoseGateways.
func (l *Links) WatchHost(ctx context.Context, _ func(port uint32) bool, changed func()) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.changed:
			changed()
		}
	}
}

// LoseGateways removes the kernel's part of all gateways.
func (l *Links) LoseGateways() {
	l.mu.Lock()
	l.gateways = map[string]link.Gateway{}
	l.mu.Unlock()
	l.changed <- struct{}{}
}

// Gateways returns the number of gateways.
func (l *Links) Gateways() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.gateways)
}

// OwnedBy accepts a namespace whose path contains the user's id, as in /ns/1000/a.
func (l *Links) OwnedBy(path string, uid uint32) (held string, release func(), err error) {
	if !strings.HasPrefix(path, fmt.Sprintf("/ns/%d/", uid)) {
		return "", nil, fmt.Errorf("%q: %w", path, link.ErrNotOwner)
	}
	return path, func() {}, nil
}

// PrepareHost does nothing.
func (l *Links) PrepareHost(bool) error { return nil }

// DockersBridges returns what SetDockersBridges has set.
func (l *Links) DockersBridges(context.Context) ([]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.bridges), nil
}

// SetDockersBridges sets the Docker bridges that have a packet filter in nftables.
func (l *Links) SetDockersBridges(names ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bridges = names
}

// Uplinks returns what SetUplinks has set. The default is one interface, the underlay.
func (l *Links) Uplinks(context.Context, netip.Addr) (link.Uplinks, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	up := l.uplinks
	up.Names = slices.Clone(up.Names)
	return up, nil
}

// SetUplinks sets the interfaces that lead out of the host.
func (l *Links) SetUplinks(up link.Uplinks) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.uplinks = up
}

// SetSubnets sets the subnets on the host's interfaces.
func (l *Links) SetSubnets(subnets ...link.Subnet) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.uplinks.Subnets = subnets
}

// EnsureHostEnds does nothing.
func (l *Links) EnsureHostEnds(context.Context, []link.HostEnd) error { return nil }

// Firewall is an in-memory implementation of agent.Firewall.
type Firewall struct {
	mu    sync.Mutex
	rules *firewall.Rules
}

// Set records r.
func (f *Firewall) Set(_ context.Context, r firewall.Rules) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = &r
	return nil
}

// Close records r unless there are rules already.
func (f *Firewall) Close(_ context.Context, r firewall.Rules) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rules == nil {
		f.rules = &r
	}
	return nil
}

// Reset removes the rules.
func (f *Firewall) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = nil
}

// Rules returns the last recorded rules.
func (f *Firewall) Rules() firewall.Rules {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rules == nil {
		return firewall.Rules{}
	}
	return *f.rules
}

// NAT is an in-memory implementation of agent.NAT.
type NAT struct {
	calls *Calls

	mu    sync.Mutex
	rules nat.Rules
	lost  bool // Lose removed the rules, and Compare has not run since
}

// NewNAT returns a filter without rules.
func NewNAT(c *Calls) *NAT { return &NAT{calls: c} }

// Set records r. After Lose it changes nothing, because Set does not look at the actual
// rules.
func (n *NAT) Set(ctx context.Context, r nat.Rules) error {
	return n.calls.do(ctx, "NAT.Set", func() error {
		n.mu.Lock()
		defer n.mu.Unlock()
		if !n.lost {
			n.rules = r
		}
		return nil
	})
}

// Compare records r.
func (n *NAT) Compare(ctx context.Context, r nat.Rules) error {
	return n.calls.do(ctx, "NAT.Compare", func() error {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.rules, n.lost = r, false
		return nil
	})
}

// Wrote returns false: every change was made by others.
func (n *NAT) Wrote(uint32) bool { return false }

// Lose removes all rules without the agent's knowledge.
func (n *NAT) Lose() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rules, n.lost = nat.Rules{}, true
}

// Bridges returns the Docker bridges in the rules.
func (n *NAT) Bridges() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.rules.Bridges)
}

// Networks lists the subnets in the rules, with " metadata" appended if they may reach
// it.
func (n *NAT) Networks() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var list []string
	for _, r := range n.rules.Networks {
		line := r.Subnet.String()
		if r.Metadata {
			line += " metadata"
		}
		list = append(list, line)
	}
	return list
}

// State describes the rules, one line per network and per published port, sorted.
func (n *NAT) State() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var lines []string
	for _, r := range n.rules.Networks {
		lines = append(lines, fmt.Sprintf("nat %s %s", r.Subnet, r.GatewayPort))
	}
	for _, p := range n.rules.Published {
		lines = append(lines, fmt.Sprintf("nat %s to %s", p.Port, p.To))
	}
	slices.Sort(lines)
	return lines
}
