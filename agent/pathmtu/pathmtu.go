// Package pathmtu owns what this host knows of the largest packet that reaches each
// peer. A wire on the way may take less than the interfaces at both ends say, and
// lose the rest without a word. The package sends probes of known sizes through the
// peers' tunnels, the way that containers' packets go, and compares which come back
// (as RFC 8899 does for transports). It knows nothing of networks or of the store.
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

// Least is the smallest MTU that a path is believed to have, that of IPv6 (RFC 8200).
// Whoever can lose packets on the way makes the networks' MTU no smaller.
const Least = 1280

// overhead is what VXLAN adds to an IPv4 packet, see agent/verdict; outer is the part
// of it that is not in a probe's frame: IPv4, UDP and VXLAN.
const (
	overhead = 50
	outer    = 36
)

// Peer is another host that this host has a tunnel to.
type Peer struct {
	ID, Name string
	VTEP     netip.Addr
	OFPort   int  // of the tunnel
	Alive    bool // its agent runs; its switch answers anyway
}

// Path is what is known of the way to a peer.
type Path struct {
	MTU     int // the largest packet that arrives, in bytes; 0: not known
	Limited bool
}

// Wire sends probes and hears the answers: an ovs.Prober.
type Wire interface {
	Send(ofport, size int, nonce ovs.Nonce) error
	Receive() (ovs.Answer, error)
	Close()
}

// Paths measures the paths of this host.
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

// peer is what is kept of one peer.
type peer struct {
	Peer
	here   bool          // it is among the peers now
	left   time.Time     // when it was last
	limit  int           // the largest packet that arrives, if that is less than the interfaces take
	below  bool          // not even Least arrives
	told   int           // MTU of its interface, as it says; 0: it has said nothing yet
	known  bool          // it was measured in this life
	busy   bool          // it is being measured
	due    time.Time     // of the next check
	retry  time.Duration // pause until it is asked again when it does not answer
	better time.Time     // since when each check has found that more than the limit arrives
	falls  int           // how often the limit fell lately
	fell   time.Time     // when last
}

// Open connects to the switch. Answers come to mac.
type Open func(ctx context.Context, mac string) (Wire, error)

// New makes Paths that keep what they find in file.
func New(file string, open Open, logger *slog.Logger) *Paths {
	p := &Paths{file: file, open: open, logger: logger, mac: randomMAC(), peers: map[string]*peer{}, kick: make(chan struct{}, 1)}
	p.load()
	return p
}

// randomMAC is a local unicast address that nobody guesses.
func randomMAC() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // it never fails
	b[0] = b[0]&^1 | 2
	return net.HardwareAddr(b[:]).String()
}

// Clamp takes the MTU of the underlay interface and gives the one that this host may
// use: the smallest that its paths to the peers have, but no less than Least.
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

// Probe is how this host's switch takes part.
func (p *Paths) Probe() ovs.Probe {
	p.mu.Lock()
	defer p.mu.Unlock()
	return ovs.Probe{MAC: p.mac, MTU: p.iface}
}

// Set tells who the peers are. A new one, one with another address, and one that came
// back are measured soon.
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
		// A machine that is repaired comes back to the same wire.
		if !o.here && (o.limit == 0 || now.Sub(o.left) > keepLimit) {
			delete(p.peers, id)
		}
	}
}

// keepLimit is how long the limit of a peer is kept that is away.
const keepLimit = 24 * time.Hour

// hurry makes some checks due. The caller holds p.mu.
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

// Known gives the paths by the peer's id, and sentences about those that take less
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
		case o.known && most > Least: // else nothing was measured
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

// maxProblems bounds how many paths are described one by one.
const maxProblems = 20

// most is the largest packet that both interfaces take.
func (p *Paths) most(o *peer) int { return mostOf(p.iface, o.told) }

func (p *Paths) problem(o *peer) string {
	if o.below {
		return fmt.Sprintf("packets of %d bytes do not reach host %q (%s), though the interfaces take %d: packets of containers to that host are lost from some size on, "+
			"since the MTU of the networks is not made less than %d; raise the MTU of what is between the two hosts", Least, o.Name, o.VTEP, p.most(o), Least-overhead)
	}
	return fmt.Sprintf("packets of more than %d bytes do not reach host %q (%s), though the interfaces take %d: the MTU of all networks is %d at most until they do; "+
		"raise the MTU of what is between the two hosts", o.limit, o.Name, o.VTEP, p.most(o), o.limit-overhead)
}
