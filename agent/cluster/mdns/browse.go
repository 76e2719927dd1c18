package mdns

import (
	"context"
	"net/netip"
	"time"
)

// Questions come ever more rarely, RFC 6762, section 5.2: a cluster that begins
// later announces itself.
const firstQuestion, maxQuestion = time.Second, time.Minute

// Browse asks the segment of an interface, where this host is addr, who is in a
// cluster, until ctx ends. It calls found, in one goroutine, for each
// announcement that a host made of itself, as often as it is heard. The error is
// of the interface.
func Browse(ctx context.Context, iface string, addr netip.Addr, found func(Announcement)) error {
	s, err := open(iface, addr)
	if err != nil {
		return err
	}
	packet, err := question()
	if err != nil {
		s.close()
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- s.hear(found) }()
	ended := false
	defer func() {
		s.close()
		if !ended {
			<-failed // found is not called any more
		}
	}()
	pause := firstQuestion
	due := time.NewTimer(0)
	defer due.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			ended = true
			return err
		case <-due.C:
			if err := s.sendAll(packet); err != nil {
				return err
			}
			due.Reset(pause)
			pause = min(2*pause, maxQuestion)
		}
	}
}

func (s *socket) hear(found func(Announcement)) error {
	buf := make([]byte, maxPacket)
	for {
		m, from, err := s.receive(buf)
		if err != nil {
			return err
		}
		// A response from another port is none, RFC 6762, section 6. And nobody can
		// speak for another address, or send us to one.
		if m.response && from.Port() == port && m.found.Addr == from.Addr() {
			found(*m.found)
		}
	}
}
