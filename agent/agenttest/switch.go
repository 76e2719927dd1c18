package agenttest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/socketplane/socketplane/ovs"
)

// Switch is an in-memory implementation of agent.Switch.
type Switch struct {
	calls *Calls

	changed chan struct{}
	mu      sync.Mutex
	next    int
	ports   map[string]ovs.Port
	flows   ovs.Forwarding
	resyncs int
	ways    []ovs.Way

	datapath string
	drops    map[int]map[ovs.Cause]uint64
}

// NewSwitch returns a bridge without ports.
func NewSwitch(c *Calls) *Switch {
	return &Switch{calls: c, changed: make(chan struct{}, 1), ports: map[string]ovs.Port{}}
}

// Bridge returns the name of the bridge.
func (s *Switch) Bridge() string { return "docker0-ovs" }

// Datapath returns netdev, or what SetDatapath has set.
func (s *Switch) Datapath() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return cmp.Or(s.datapath, ovs.DatapathNetdev)
}

// Changed returns a channel that receives after Change.
func (s *Switch) Changed() <-chan struct{} { return s.changed }

// Connected returns true.
func (s *Switch) Connected() bool { return true }

// AddPort adds or changes a port and returns its number.
func (s *Switch) AddPort(ctx context.Context, p ovs.Port) (ofport int, err error) {
	err = s.calls.do(ctx, "Switch.AddPort", func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		old, ok := s.ports[p.Name]
		if p.OFPort = old.OFPort; !ok {
			s.next++
			p.OFPort = s.next
		}
		p.IDs = maps.Clone(p.IDs)
		if p.Kind == ovs.KindEndpoint {
			p.MTU = 0
		}
		s.ports[p.Name] = p
		ofport = p.OFPort
		return nil
	})
	return ofport, err
}

// RemovePort removes a port if it exists.
func (s *Switch) RemovePort(ctx context.Context, name string) error {
	return s.calls.do(ctx, "Switch.RemovePort", func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.ports, name)
		return nil
	})
}

// Ports lists the ports, sorted by name.
func (s *Switch) Ports(ctx context.Context) (list []ovs.Port, err error) {
	err = s.calls.do(ctx, "Switch.Ports", func() error { list = s.list(); return nil })
	return list, err
}

func (s *Switch) list() []ovs.Port {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []ovs.Port{}
	for _, p := range s.ports {
		p.IDs = maps.Clone(p.IDs)
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b ovs.Port) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// SetTunnels replaces the tunnels and returns their port numbers by peer.
func (s *Switch) SetTunnels(ctx context.Context, tunnels []ovs.Tunnel) (ofports map[string]int, err error) {
	err = s.calls.do(ctx, "Switch.SetTunnels", func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		ofports = map[string]int{}
		keep := map[string]bool{}
		for _, t := range tunnels {
			name := ovs.TunnelName(t.Peer)
			p, ok := s.ports[name]
			if !ok {
				s.next++
				p = ovs.Port{Name: name, Kind: ovs.KindTunnel, OFPort: s.next}
			}
			p.IDs = map[string]string{"peer": t.Peer, "remote": t.Remote.String(), "local": t.Local.String()}
			s.ports[name], keep[name], ofports[t.Peer] = p, true, p.OFPort
		}
		maps.DeleteFunc(s.ports, func(name string, p ovs.Port) bool { return p.Kind == ovs.KindTunnel && !keep[name] })
		return nil
	})
	return ofports, err
}

// SetForwarding records f.
func (s *Switch) SetForwarding(ctx context.Context, f ovs.Forwarding) error {
	return s.calls.do(ctx, "Switch.SetForwarding", func() error { s.set(f); return nil })
}

// Resync records f and counts the call.
func (s *Switch) Resync(ctx context.Context, f ovs.Forwarding) error {
	return s.calls.do(ctx, "Switch.Resync", func() error {
		s.set(f)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.resyncs++
		return nil
	})
}

func (s *Switch) set(f ovs.Forwarding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flows = f
}

// Forwarding returns the last recorded state.
func (s *Switch) Forwarding() ovs.Forwarding {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flows
}

// Change changes a port without the agent's knowledge. If f returns false, the port is
// removed.
func (s *Switch) Change(name string, f func(*ovs.Port) bool) {
	s.mu.Lock()
	p := s.ports[name]
	p.Name = name
	if f(&p) {
		s.ports[name] = p
	} else {
		delete(s.ports, name)
	}
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Drop removes a port without a notification on Changed.
func (s *Switch) Drop(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.ports, name)
}

// State describes ports and flows, one per line, sorted.
func (s *Switch) State() []string {
	var lines []string
	for _, p := range s.list() {
		lines = append(lines, fmt.Sprintf("port %s %s vlan %d %v", p.Name, p.Kind, p.VLAN, p.IDs))
	}
	f := s.Forwarding()
	for _, g := range f.Segments {
		lines = append(lines, fmt.Sprintf("segment %d %s gateway %t", g.VNI, g.Subnet, g.GatewayPort > 0))
		for _, l := range g.Local {
			lines = append(lines, fmt.Sprintf("local %d %s %s%s", g.VNI, l.IP, l.MAC, allowedText(l.Allowed)))
		}
		for _, r := range g.Remote {
			lines = append(lines, fmt.Sprintf("remote %d %s %s%s", g.VNI, r.IP, r.MAC, allowedText(r.Allowed)))
		}
	}
	slices.Sort(lines)
	return lines
}

// PinWay records w.
func (s *Switch) PinWay(ctx context.Context, w ovs.Way) error {
	return s.calls.do(ctx, "Switch.PinWay", func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.ways = append(s.ways, w)
		return nil
	})
}

// Ways returns the ways pinned since the last call, in order.
func (s *Switch) Ways() []ovs.Way {
	s.mu.Lock()
	defer s.mu.Unlock()
	ways := s.ways
	s.ways = nil
	return ways
}

// SetDatapath sets the result of Datapath.
func (s *Switch) SetDatapath(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.datapath = name
}

func allowedText(list []netip.Prefix) string {
	if len(list) == 0 {
		return ""
	}
	return fmt.Sprintf(" allowed %v", list)
}

// Drops returns the counts that CountDrops has set.
func (s *Switch) Drops(ctx context.Context) (drops map[int]map[ovs.Cause]uint64, err error) {
	err = s.calls.do(ctx, "Switch.Drops", func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		drops = s.drops
		return nil
	})
	return drops, err
}

// CountDrops sets the counts that Drops returns for a port.
func (s *Switch) CountDrops(ofport int, causes map[ovs.Cause]uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.drops == nil {
		s.drops = map[int]map[ovs.Cause]uint64{}
	}
	s.drops[ofport] = causes
}
