package mdns

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	// again is how soon what was said to all may be said again, RFC 6762, section 6:
	// that bounds what questions can make us send.
	again = time.Second
	// A shared answer waits a moment, so that many hosts do not speak at once.
	minDelay, maxDelay = 20 * time.Millisecond, 120 * time.Millisecond
	// unasked is how often an announcement is said at first, section 8.3.
	unasked = 3
	// lookAgain is how often the interface is looked at: one that was made anew hears
	// nothing for a socket of before, and nothing says so.
	lookAgain = 30 * time.Second
)

// Announce says a to the segment of an interface, unasked at first and then to
// who asks, until ctx ends. The error is of the interface.
func Announce(ctx context.Context, iface string, a Announcement) error {
	s, err := open(iface, a.Addr)
	if err != nil {
		return err
	}
	defer s.close()
	packet, err := a.answer(ttl, nil)
	if err != nil {
		return err
	}
	asked, failed := make(chan struct{}, 1), make(chan error, 1)
	go func() { failed <- s.answerAll(a, asked) }()
	last, next := time.Time{}, time.Now() // when it was said, and is to be; zero: not before somebody asks
	due := time.NewTimer(0)
	defer due.Stop()
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	for said := 0; ; {
		select {
		case <-ctx.Done():
			if bye, err := a.answer(0, nil); err == nil {
				_ = s.sendAll(bye) // who does not hear it notices by the records' age
			}
			return nil
		case err := <-failed:
			return err
		case <-look.C:
			if err := s.stillThere(iface); err != nil {
				return err
			}
		case <-asked:
			wait := max(minDelay+rand.N(maxDelay-minDelay), time.Until(last.Add(again)))
			if at := time.Now().Add(wait); next.IsZero() || at.Before(next) {
				next = at
				due.Reset(wait)
			}
		case <-due.C:
			last, next = time.Now(), time.Time{}
			if err := s.sendAll(packet); err != nil {
				return err
			}
			if said++; said < unasked {
				next = last.Add(again << (said - 1))
				due.Reset(time.Until(next))
			}
		}
	}
}

// answerAll hears questions until the socket is closed. A question by plain DNS,
// from another port, is answered at once to who asked, ten a second at most: it
// is not said whether it is he.
func (s *socket) answerAll(a Announcement, asked chan<- struct{}) error {
	buf := make([]byte, maxPacket)
	var window time.Time
	count := 0
	name := strings.ToLower(a.Instance + "." + Service)
	for {
		m, from, err := s.receive(buf)
		switch {
		case err != nil:
			return err
		case m.response || slices.Contains(m.known, name):
			continue
		case from.Port() == port:
			select {
			case asked <- struct{}{}:
			default:
			}
			continue
		}
		if time.Since(window) > time.Second {
			window, count = time.Now(), 0
		}
		if count++; count <= 10 {
			s.answerOne(a, m, from)
		}
	}
}

func (s *socket) answerOne(a Announcement, m message, to netip.AddrPort) {
	if packet, err := a.answer(ttl, &m); err == nil {
		_ = s.send(packet, to) // who asked may ask again
	}
}
