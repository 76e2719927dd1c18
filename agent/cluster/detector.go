package cluster

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"
)

const (
	// unwatched is how many times longer a host is suspected when no failure
	// detector of the store watches its machine: then nothing tells a machine
	// without power from one whose agent is away.
	unwatched = 30
	// probePort is Consul's gossip, in the list of ports that Consul requires: what
	// a firewall lets through between hosts. Nobody need listen: the refusal is
	// the answer.
	probePort = 8301
	// probeTimeout is enough for one SYN to be sent twice.
	probeTimeout = 1500 * time.Millisecond
)

// Detector tells hosts that are dead from hosts whose agent is. Only the first
// are taken out of the network: an agent that died, or a Consul that did, must
// not cost the host's containers their traffic. A host is gone when for a while
// its session has not held its record, its machine is not among those that the
// store's failure detector hears of, and its kernel does not answer from here.
type Detector struct {
	drainAfter time.Duration
	live       func(ctx context.Context) ([]string, error)
	answers    func(ctx context.Context, host netip.Addr) bool

	hosts map[string]*sighting
}

// sighting is what is known of a host that does not hold its record.
type sighting struct {
	revision uint64    // of the record: whoever writes it is not dead
	since    time.Time // it is suspected
	gone     time.Time // since when; zero: it is not
}

// NewDetector makes a Detector. live names the machines that are heard of, see
// state.Store.LiveNodes.
func NewDetector(drainAfter time.Duration, live func(ctx context.Context) ([]string, error)) *Detector {
	return &Detector{drainAfter: drainAfter, live: live, answers: Answers, hosts: map[string]*sighting{}}
}

// Look judges all hosts, and gives those that are gone, with the time since
// when. believed says whether a host is taken to be where its record says. It asks the store only when somebody is suspected for long enough. When
// it cannot ask, what it judged last stands. One goroutine may use it.
func (d *Detector) Look(ctx context.Context, hosts []Host, believed func(id string) bool) (gone map[string]time.Time, err error) {
	now := time.Now()
	var living, due []Host
	known := map[string]*sighting{}
	for _, h := range hosts {
		if h.Alive {
			living = append(living, h)
			continue
		}
		s := d.hosts[h.ID]
		if s == nil || s.revision != h.Revision {
			s = &sighting{revision: h.Revision, since: now}
		}
		known[h.ID] = s
		wait := d.drainAfter
		if h.Node == "" {
			wait *= unwatched
		}
		if now.Sub(s.since) >= wait {
			due = append(due, h)
		}
	}
	d.hosts = known
	if len(due) > 0 {
		err = d.judge(ctx, due, living, believed)
	}
	gone = map[string]time.Time{}
	for id, s := range d.hosts {
		if !s.gone.IsZero() {
			gone[id] = s.gone
		}
	}
	return gone, err
}

// judge decides on hosts that have been suspected for long enough. A living
// host that has the address or the node of one is in its place: a machine that
// was installed anew has a new identity. A host that only claims the address,
// since it is known at another, has it once nothing is heard of the machine.
func (d *Detector) judge(ctx context.Context, due, living []Host, believed func(id string) bool) error {
	live, err := d.live(ctx)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	for _, h := range due {
		s := d.hosts[h.ID]
		claimed := func(l Host) bool { return l.VTEP == h.VTEP }
		replaced := slices.ContainsFunc(living, func(l Host) bool { return claimed(l) && believed(l.ID) })
		renamed := slices.ContainsFunc(living, func(l Host) bool { return l.Node == h.Node })
		switch {
		case replaced:
			s.die()
		case h.Node != "" && !renamed && slices.Contains(live, h.Node):
			s.gone = time.Time{}
		case slices.ContainsFunc(living, claimed):
			s.die() // who answers there may be the one that claims it
		default:
			wg.Go(func() {
				if d.answers(ctx, h.VTEP) {
					s.gone = time.Time{}
				} else if ctx.Err() == nil {
					s.die()
				}
			})
		}
	}
	wg.Wait()
	return nil
}

func (s *sighting) die() {
	if s.gone.IsZero() {
		s.gone = time.Now()
	}
}

// Answers says whether the kernel at an address answers: accepting or refusing
// a connection, it lives. Silence may be a firewall's.
func Answers(ctx context.Context, host netip.Addr) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(host, probePort).String())
	if err == nil {
		_ = conn.Close()
		return true
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}
