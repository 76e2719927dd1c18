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
	// unwatched is the factor by which a host stays suspected longer if no failure
	// detector of the store watches its machine. Then nothing distinguishes a machine
	// without power from one whose agent is down.
	unwatched = 30
	// probePort is Consul's gossip port, which firewalls between hosts must allow
	// because Consul requires it. Nothing needs to listen on it: a refused connection is
	// an answer too.
	probePort = 8301
	// probeTimeout leaves time for one SYN and one retransmission.
	probeTimeout = 1500 * time.Millisecond
)

// Detector distinguishes dead hosts from hosts whose agent is down. Only dead hosts are
// removed from the network: a dead agent or a dead Consul must not interrupt the traffic
// of the host's containers. A host is gone if for some time its session has not held its
// record, the store's failure detector does not list its machine, and its kernel does not
// answer this host.
type Detector struct {
	drainAfter time.Duration
	live       func(ctx context.Context) ([]string, error)
	answers    func(ctx context.Context, host netip.Addr) bool

	hosts map[string]*sighting
}

// sighting is what the Detector knows about a host that does not hold its record.
type sighting struct {
	revision uint64    // of the record; a host that writes its record is not dead
	since    time.Time // start of the suspicion
	gone     time.Time // time at which the host was declared gone; zero: not gone
}

// NewDetector returns a Detector. live returns the machines that are alive, see
// state.Store.LiveNodes.
func NewDetector(drainAfter time.Duration, live func(ctx context.Context) ([]string, error)) *Detector {
	return &Detector{drainAfter: drainAfter, live: live, answers: Answers, hosts: map[string]*sighting{}}
}

// Look evaluates all hosts and returns those that are gone, with the time at which each
// was declared gone. believed reports whether a host is accepted to be at the address in
// its record. Look queries the store only if a host has been suspected for long enough.
// If the query fails, Look returns the previous result and the error. Only one goroutine
// may call it.
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

// judge decides about hosts that have been suspected for long enough. A live host with
// the same address or node name replaces a suspected host, because a reinstalled machine
// has a new identity. A live host that only claims the address, because it is known at
// another one, counts once the failure detector no longer lists the machine.
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
			s.die() // the host that claims the address may be the one that answers there
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

// Answers reports whether the kernel at host answers, by accepting or refusing a
// connection. A firewall may also cause a missing answer.
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
