package mdns

import (
	"context"
	"net/netip"
	"time"
)

// firstQuestion and maxQuestion limit the interval between queries, which doubles after
// each query (RFC 6762, section 5.2). A cluster that starts later announces itself.
const firstQuestion, maxQuestion = time.Second, time.Minute

// Browse queries the segment of an interface, on which this host has addr, for hosts in a
// cluster until ctx ends. It calls found for each announcement that it receives from the
// announced host itself, including repetitions. All calls come from one goroutine. An
// error concerns the interface.
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
			<-failed // after this, found is not called any more
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
		// A response must come from port 5353 (RFC 6762, section 6). The address check
		// stops a host from announcing another host's address.
		if m.response && from.Port() == port && m.found.Addr == from.Addr() {
			found(*m.found)
		}
	}
}
