// Package pathmtu measures the size of the largest packet that reaches each peer. A link
// on the path may accept less than the interfaces at both ends and silently drop larger
// packets. The package sends probes of known sizes through the tunnels to the peers, the
// path of containers' packets, and checks which return (as RFC 8899 does for transports).
// It has no knowledge of networks or of the store.
package pathmtu

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/socketplane/socketplane/ovs"
)

// Least is the smallest path MTU, in bytes, that the package accepts: that of IPv6 (RFC
// 8200). So an attacker who drops packets on the path cannot reduce the networks' MTU
// further.
const Least = 1280

// overhead is what VXLAN adds to an IPv4 packet in bytes, see agent/verdict. outer is the
// part of it that is not in a probe's frame: IPv4, UDP and VXLAN.
const (
	overhead = 50
	outer    = 36
)

// Peer is another host to which this host has a tunnel.
type Peer struct {
	ID, Name string
	VTEP     netip.Addr
	OFPort   int  // of the tunnel to it
	Alive    bool // its agent runs; its switch answers in any case
}

// Path is the measured path to a peer.
type Path struct {
	MTU     int // the largest packet that arrives, in bytes; 0 if unknown
	Limited bool
}

// Wire sends probes and receives the answers. An ovs.Prober is one.
type Wire interface {
	Send(ofport, size int, nonce ovs.Nonce) error
	Receive() (ovs.Answer, error)
	Close()
}

// Paths measures the paths of this host to its peers.
type Paths struct {
	file   string
	open   Open
	logger *slog.Logger
	mac    string

	mu    sync.Mutex
	iface int // MTU of the underlay interface
	peers map[string]*peer
	kick  chan struct{}
}

// peer is the state of one peer.
type peer struct {
	Peer
	here   bool          // it is a peer now
	left   time.Time     // when it was last a peer
	limit  int           // the largest packet that arrives, if less than the interfaces take; else 0
	below  bool          // not even Least arrives
	told   int           // MTU of its interface, as it reports; 0 if it has not reported yet
	known  bool          // measured since the agent started
	busy   bool          // being measured
	due    time.Time     // of the next check
	retry  time.Duration // pause before the next check if it does not answer
	better time.Time     // since when each check has found that larger packets than the limit arrive
	falls  int           // number of recent falls of the limit
	fell   time.Time     // time of the last fall
}

// Open connects to the switch. mac is the address to which answers are sent.
type Open func(ctx context.Context, mac string) (Wire, error)

// New returns Paths that keep the limits in file, and loads those of an earlier run.
func New(file string, open Open, logger *slog.Logger) *Paths {
	p := &Paths{file: file, open: open, logger: logger, mac: randomMAC(), peers: map[string]*peer{}, kick: make(chan struct{}, 1)}
	p.load()
	return p
}

// randomMAC returns a random local unicast address that nobody can guess.
func randomMAC() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails
	b[0] = b[0]&^1 | 2
	return net.HardwareAddr(b[:]).String()
}

// Clamp takes the MTU of the underlay interface and returns the MTU that this host may
// use, both in bytes. It is the smallest of mtu and the limits of the paths to the peers.
// A limit below Least counts as Least.
func (p *Paths) Clamp(mtu int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.iface != mtu {
		p.iface = mtu
		p.hurry(func(o *peer) bool { o.known = false; return true })
	}
	for _, o := range p.peers {
		if o.here && o.limit > 0 {
			mtu = min(mtu, max(o.limit, Least))
		}
	}
	return mtu
}

// Probe returns this host's part in probing, for its switch.
func (p *Paths) Probe() ovs.Probe {
	p.mu.Lock()
	defer p.mu.Unlock()
	return ovs.Probe{MAC: p.mac, MTU: p.iface}
}

// Set sets the peers. Peers that are new, changed their address or came back are measured
// soon.
func (p *Paths) Set(peers []Peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	here := map[string]bool{}
	for _, n := range peers {
		here[n.ID] = true
		o := p.peers[n.ID]
		if o == nil || o.VTEP != n.VTEP {
			o = &peer{}
			p.peers[n.ID] = o
		}
		news := !o.here || o.OFPort != n.OFPort || n.Alive && !o.Alive
		o.Peer, o.here = n, true
		if news {
			p.hurry(func(x *peer) bool { return x == o })
		}
	}
	for id, o := range p.peers {
		if !here[id] && o.here {
			o.here, o.left = false, now
		}
		// Keep the limit: a repaired machine returns to the same link.
		if !o.here && (o.limit == 0 || now.Sub(o.left) > keepLimit) {
			delete(p.peers, id)
		}
	}
}

// keepLimit is how long the limit of an absent peer is kept.
const keepLimit = 24 * time.Hour

// hurry makes the selected checks due. The caller holds p.mu.
func (p *Paths) hurry(which func(*peer) bool) {
	for _, o := range p.peers {
		if which(o) {
			o.due, o.retry = time.Time{}, 0
		}
	}
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// Known returns the measured paths by peer id, and sentences about those that take less
// than the interfaces.
func (p *Paths) Known() (map[string]Path, []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	paths := map[string]Path{}
	var limited []*peer
	for id, o := range p.peers {
		most := p.most(o)
		switch {
		case !o.here:
		case o.limit > 0 && o.limit < most:
			paths[id] = Path{MTU: o.limit, Limited: true}
			limited = append(limited, o)
		case o.known && most > Least: // otherwise nothing was measured
			paths[id] = Path{MTU: most}
		}
	}
	slices.SortFunc(limited, func(a, b *peer) int { return strings.Compare(a.Name+"\x00"+a.ID, b.Name+"\x00"+b.ID) })
	var problems []string
	for i, o := range limited {
		if i == maxProblems {
			problems = append(problems, fmt.Sprintf("the paths to %d more hosts take less than the interfaces say, too", len(limited)-i))
			break
		}
		problems = append(problems, p.problem(o))
	}
	return paths, problems
}

// maxProblems limits how many paths Known describes one by one.
const maxProblems = 20

// most returns the largest packet, in bytes, that both interfaces take.
func (p *Paths) most(o *peer) int { return mostOf(p.iface, o.told) }

func (p *Paths) problem(o *peer) string {
	if o.below {
		return fmt.Sprintf("packets of %d bytes do not reach host %q (%s), though the interfaces take %d: packets of containers to that host are lost from some size on, "+
			"since the MTU of the networks is not made less than %d; raise the MTU of what is between the two hosts", Least, o.Name, o.VTEP, p.most(o), Least-overhead)
	}
	return fmt.Sprintf("packets of more than %d bytes do not reach host %q (%s), though the interfaces take %d: the MTU of all networks is %d at most until they do; "+
		"raise the MTU of what is between the two hosts", o.limit, o.Name, o.VTEP, p.most(o), o.limit-overhead)
}
