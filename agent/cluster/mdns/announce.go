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
	// again is the minimum interval between two multicast answers (RFC 6762, section 6).
	// It limits how much traffic queries can cause.
	again = time.Second
	// A shared answer is delayed, so that many hosts do not answer at once.
	minDelay, maxDelay = 20 * time.Millisecond, 120 * time.Millisecond
	// unasked is the number of initial announcements (section 8.3).
	unasked = 3
	// lookAgain is how often the interface is checked. A socket receives nothing from an
	// interface that was recreated, and the kernel reports no error.
	lookAgain = 30 * time.Second
)

// Announce announces a on the segment of an interface until ctx ends: first unsolicited,
// then in answer to queries. An error concerns the interface.
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
	last, next := time.Time{}, time.Now() // times of the last and the next announcement; zero next: wait for a query
	due := time.NewTimer(0)
	defer due.Stop()
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	for said := 0; ; {
		select {
		case <-ctx.Done():
			if bye, err := a.answer(0, nil); err == nil {
				_ = s.sendAll(bye) // hosts that miss it notice when the records expire
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

// answerAll processes queries until the socket is closed. It answers a plain DNS query,
// which comes from another port, directly to the sender. The limit is ten such answers a
// second, because the sender address may be forged.
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
		_ = s.send(packet, to) // the sender may ask again
	}
}
