package clustertest

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"testing"
	"time"
)

// heard counts gossip by whether it was encrypted: datagrams, and streams by the
// first byte that each side said.
type heard struct{ sealed, open, sealedStreams, openStreams int }

const (
	// What memberlist (net.go, security.go) puts first: the version of the
	// encryption before an encrypted datagram, where an open one has the kind of
	// message (12 for a checksum, 9 for what is compressed, ...); and this kind
	// before an encrypted stream.
	sealedDatagram = 1
	sealedStream   = 10

	pcapHeader         = 24 // bytes
	protoTCP, protoUDP = 6, 17
)

// gossipIn reads what went to or from a port in a capture of tcpdump's, which may
// still be growing: pcap with Linux cooked frames, see pcap-savefile(5), and
// LINKTYPE_LINUX_SLL and _SLL2 of tcpdump.org.
func gossipIn(t testing.TB, capture []byte, port uint16) heard {
	t.Helper()
	if len(capture) < pcapHeader {
		return heard{} // it has not begun
	}
	le := binary.LittleEndian
	frame, ok := map[uint32]int{113: 16, 276: 20}[le.Uint32(capture[20:])]
	if magic := le.Uint32(capture); magic != 0xa1b2c3d4 || !ok {
		t.Fatalf("a capture of the kind %x, %d", magic, le.Uint32(capture[20:]))
	}
	var h heard
	begins := map[string]uint32{} // of each side of a stream: the number of its first byte
	for rest := capture[pcapHeader:]; len(rest) >= 16; {
		size := int(le.Uint32(rest[8:]))
		if len(rest) < 16+size {
			break
		}
		packet := rest[16 : 16+size]
		rest = rest[16+size:]
		if len(packet) < frame+20 || packet[frame]>>4 != 4 {
			continue
		}
		ip := packet[frame:]
		begin, end := min(int(ip[0]&15)*4, len(ip)), min(int(binary.BigEndian.Uint16(ip[2:])), len(ip))
		body := ip[begin:max(begin, end)]
		switch {
		case binary.BigEndian.Uint16(ip[6:])&0x1fff != 0 || len(body) < 4: // not the first fragment
		case binary.BigEndian.Uint16(body) != port && binary.BigEndian.Uint16(body[2:]) != port:
		case ip[9] == protoUDP && len(body) > 8:
			if body[8] == sealedDatagram {
				h.sealed++
			} else {
				h.open++
			}
		case ip[9] == protoTCP && len(body) >= 20:
			side := string(ip[12:20]) + string(body[:4])
			seq, data := binary.BigEndian.Uint32(body[4:]), body[min(int(body[12]>>4)*4, len(body)):]
			if body[13]&2 != 0 { // SYN
				begins[side] = seq + 1
				continue
			}
			if first, ok := begins[side]; ok && seq == first && len(data) > 0 {
				delete(begins, side) // said once, seen on several interfaces
				if data[0] == sealedStream {
					h.sealedStreams++
				} else {
					h.openStreams++
				}
			}
		}
	}
	return h
}

// The look at gossip that finds none in the open does find it where two Consuls
// have no key.
func TestOpenGossipIsHeard(t *testing.T) {
	const port = 9301
	wire := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for k, other := range map[int]string{4: addr5, 5: addr4} {
		cmd := hosts.Host(k).Command(ctx, "consul", "agent", "-node", fmt.Sprintf("open%d", k), "-data-dir", "/run/open-consul",
			"-bind", hosts.Host(k).Addr.String(), "-retry-join", fmt.Sprintf("%s:%d", other, port), "-retry-interval", "1s", "-serf-lan-port", fmt.Sprint(port),
			"-http-port", "9500", "-dns-port", "-1", "-grpc-port", "-1", "-log-level", "error")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Wait() }) // ended by ctx
	}
	var h heard
	eventually(t, time.Minute, "two Consuls without a key are heard", func() error {
		capture, err := os.ReadFile(wire.file)
		if err != nil {
			return err
		}
		if h = gossipIn(t, capture, port); h.open == 0 || h.openStreams == 0 {
			return fmt.Errorf("%+v", h)
		}
		return nil
	})
	if h.sealed+h.sealedStreams > 0 {
		t.Errorf("some of it passes for encrypted: %+v", h)
	}
	t.Logf("%+v", h)
}
