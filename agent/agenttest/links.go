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

// Links is network devices in memory. A path that begins with /ns/ is a
// namespace until RemoveNetNS.
type Links struct {
	calls *Calls

	mu       sync.Mutex
	veths    map[string]*veth // by the host's end
	gateways map[string]link.Gateway
	gone     map[string]bool // namespaces
	dead     map[string]bool // namespaces without a process
	lost     chan string     // host's ends that went with their namespace
	taken    map[string]bool // namespace + interface: somebody else's
	changed  chan struct{}   // see WatchHost
	bridges  []string        // see DockersBridges

	forgotten []link.Stale
	uplinks   link.Uplinks
	neighbors map[netip.Addr]link.Neighbor
}

type veth struct {
	link.Veth
	hostMTU int
	config  *link.Config // nil: not configured
}

// NewLinks makes a host without devices.
func NewLinks(c *Calls) *Links {
	return &Links{calls: c, veths: map[string]*veth{}, gateways: map[string]link.Gateway{}, gone: map[string]bool{}, dead: map[string]bool{}, lost: make(chan string, 64), taken: map[string]bool{}, changed: make(chan struct{}, 1), uplinks: link.Uplinks{Underlay: "eth0", Names: []string{"eth0"}}}
}

func (l *Links) isNetNS(path string) bool { return strings.HasPrefix(path, "/ns/") && !l.gone[path] }

// EnsureVeth makes a pair; one whose peer is elsewhere is made anew.
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

// DeleteVeth deletes a pair; none is fine.
func (l *Links) DeleteVeth(ctx context.Context, host string) error {
	return l.calls.do(ctx, "Links.DeleteVeth", func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.veths, host)
		return nil
	})
}

// Configure furnishes the peer that is in the namespace.
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

// Inspect looks at a host's end.
func (l *Links) Inspect(host string) (link.State, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.veths[host]
	if v == nil {
		return link.State{}, nil
	}
	return link.State{Exists: true, Up: true, MTU: v.hostMTU, PeerMoved: v.NetNS != ""}, nil
}

// Peer looks at the peer.
func (l *Links) Peer(host, nsPath string) (link.Peer, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.veths[host]
	if v == nil || v.NetNS != nsPath || !l.isNetNS(nsPath) {
		return link.Peer{}, link.ErrNotFound
	}
	return link.Peer{Name: v.IfName, MAC: v.MAC}, nil
}

// SetPeerMAC is what a plugin after ours does.
func (l *Links) SetPeerMAC(host, mac string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.veths[host].MAC = mac
}

// PeerIn says whether the peer is in the namespace.
func (l *Links) PeerIn(host, nsPath string) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.veths[host]
	return v != nil && v.NetNS == nsPath && l.isNetNS(nsPath), nil
}

// Inhabited says whether the namespace of the peer is there.
func (l *Links) Inhabited(host string) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.veths[host]
	return v != nil && !l.dead[v.NetNS], nil
}

// WatchGone tells of what RemoveNetNS takes away.
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

// Kill ends the processes of a namespace, which stays.
func (l *Links) Kill(path string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead[path] = true
}

// Move is what the caller of a hand-over does.
func (l *Links) Move(peer, path, ifName string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, v := range l.veths {
		if v.Peer == peer {
			v.NetNS, v.IfName = path, ifName
		}
	}
}

// SetMTU sets a host's end's MTU.
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

// SetPeerMTU sets the MTU of the end in a namespace.
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

// HostVeths lists the host's ends, sorted.
func (l *Links) HostVeths() ([]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.veths)), nil
}

// EnsureGateway remembers g.
func (l *Links) EnsureGateway(ctx context.Context, g link.Gateway) error {
	return l.calls.do(ctx, "Links.EnsureGateway", func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.gateways[g.Name] = g
		return nil
	})
}

// Neighbor finds who was set.
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

// ForgetConnections has none to forget.
func (l *Links) ForgetConnections(ctx context.Context, s link.Stale) error {
	return l.calls.do(ctx, "Links.ForgetConnections", func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.forgotten = append(l.forgotten, s)
		return nil
	})
}

// Forgotten is what was asked to be forgotten so far.
func (l *Links) Forgotten() []link.Stale {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.forgotten)
}

// Gateway is what was last asked of a gateway's port.
func (l *Links) Gateway(name string) link.Gateway {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gateways[name]
}

// AddVeth makes a pair that nobody asked for.
func (l *Links) AddVeth(host string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.veths[host] = &veth{Veth: link.Veth{Host: host}}
}

// RemoveNetNS ends a namespace, with the pairs in it.
func (l *Links) RemoveNetNS(path string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone[path] = true
	maps.DeleteFunc(l.veths, func(host string, v *veth) bool {
		if v.NetNS == path {
			select {
			case l.lost <- host:
			default: // nobody watches
			}
		}
		return v.NetNS == path
	})
}

// Occupy makes a name in a namespace somebody else's.
func (l *Links) Occupy(path, name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taken[path+" "+name] = true
}

// State describes the pairs, a line each, sorted.
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

// WatchHost tells of what LoseGateways takes away.
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

// LoseGateways takes the kernel's part of all gateways away.
func (l *Links) LoseGateways() {
	l.mu.Lock()
	l.gateways = map[string]link.Gateway{}
	l.mu.Unlock()
	l.changed <- struct{}{}
}

// Gateways counts the gateways that are set up.
func (l *Links) Gateways() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.gateways)
}

// OwnedBy gives a namespace to root and to the user whose id is in its path, as in
// /ns/1000/a.
func (l *Links) OwnedBy(path string, uid uint32) (held string, release func(), err error) {
	if !strings.HasPrefix(path, fmt.Sprintf("/ns/%d/", uid)) {
		return "", nil, fmt.Errorf("%q: %w", path, link.ErrNotOwner)
	}
	return path, func() {}, nil
}

// PrepareHost has nothing to prepare.
func (l *Links) PrepareHost(bool) error { return nil }

// DockersBridges is as SetDockersBridges says.
func (l *Links) DockersBridges(context.Context) ([]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.bridges), nil
}

// SetDockersBridges has Docker keep its packet filter for bridges in nftables.
func (l *Links) SetDockersBridges(names ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bridges = names
}

// Uplinks are those that were set, at first one, the underlay.
func (l *Links) Uplinks(context.Context, netip.Addr) (link.Uplinks, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	up := l.uplinks
	up.Names = slices.Clone(up.Names)
	return up, nil
}

// SetUplinks says by which interfaces the host reaches the world.
func (l *Links) SetUplinks(up link.Uplinks) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.uplinks = up
}

// SetSubnets says which subnets are on the host's interfaces.
func (l *Links) SetSubnets(subnets ...link.Subnet) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.uplinks.Subnets = subnets
}

// EnsureHostEnds finds them as they should be.
func (l *Links) EnsureHostEnds(context.Context, []link.HostEnd) error { return nil }

// Firewall is the firewall of the cluster's ports in memory.
type Firewall struct {
	mu    sync.Mutex
	rules *firewall.Rules
}

// Set remembers r.
func (f *Firewall) Set(_ context.Context, r firewall.Rules) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = &r
	return nil
}

// Close remembers r unless there are rules.
func (f *Firewall) Close(_ context.Context, r firewall.Rules) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rules == nil {
		f.rules = &r
	}
	return nil
}

// Reset takes the rules away.
func (f *Firewall) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = nil
}

// Rules are those that were set last.
func (f *Firewall) Rules() firewall.Rules {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rules == nil {
		return firewall.Rules{}
	}
	return *f.rules
}

// NAT is a packet filter in memory.
type NAT struct {
	calls *Calls

	mu    sync.Mutex
	rules nat.Rules
	lost  bool // what was set last is not there, and nobody has looked
}

// NewNAT makes a filter without rules.
func NewNAT(c *Calls) *NAT { return &NAT{calls: c} }

// Set remembers r. What Lose took away it does not find.
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

// Compare remembers r.
func (n *NAT) Compare(ctx context.Context, r nat.Rules) error {
	return n.calls.do(ctx, "NAT.Compare", func() error {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.rules, n.lost = r, false
		return nil
	})
}

// Wrote says that all was written by others.
func (n *NAT) Wrote(uint32) bool { return false }

// Lose takes all rules away behind the agent's back.
func (n *NAT) Lose() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rules, n.lost = nat.Rules{}, true
}

// Bridges are those of Docker's that the rules let pass.
func (n *NAT) Bridges() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.rules.Bridges)
}

// Networks lists the networks that are let out, and whether to the metadata too.
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

// State describes the rules, a line a network and a published port.
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
