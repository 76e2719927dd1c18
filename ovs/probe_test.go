package ovs

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/ovs/ovstest"
)

// probed is one of two hosts whose switches are joined by a wire.
type probed struct {
	s      *Switch
	i      *ovstest.Instance
	prober *Prober
	port   int // of the tunnel to the other
	got    chan Answer
}

const (
	secretA = "02:aa:aa:aa:aa:aa"
	secretB = "02:bb:bb:bb:bb:bb"
)

// newProbed starts two hosts on a wire that loses packets of more than wire bytes.
func newProbed(t *testing.T, wire int) (a, b *probed) {
	t.Helper()
	a, b = &probed{}, &probed{}
	a.s, a.i = open(t)
	b.s, b.i = open(t)
	ovstest.Join(t, a.i, b.i).Narrow(t, wire)
	for n, h := range []*probed{a, b} {
		self, peer := fmt.Sprintf("198.18.0.%d", n+1), fmt.Sprintf("198.18.0.%d", 2-n)
		ports, err := h.s.SetTunnels(t.Context(), []Tunnel{{Peer: "peer", Remote: addr(peer)}})
		if err != nil {
			t.Fatal(err)
		}
		h.port = ports["peer"]
		secret := []string{secretA, secretB}[n]
		f := Forwarding{
			Self: addr(self), Peers: []Peer{{ID: "peer", VTEP: addr(peer), OFPort: h.port}},
			Probe: Probe{MAC: secret, MTU: 1500 + n},
		}
		if err := h.s.SetForwarding(t.Context(), f); err != nil {
			t.Fatal(err)
		}
		if h.prober, err = h.s.OpenProber(t.Context(), secret); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(h.prober.Close)
		h.got = make(chan Answer, 100)
		go func() {
			for {
				a, err := h.prober.Receive()
				if err != nil {
					return
				}
				h.got <- a
			}
		}()
	}
	return a, b
}

// ask sends a probe, of a frame of size bytes, and gives its answer. Where want is
// false it sends a small one after it, and says what came before that one's answer.
func (h *probed) ask(t *testing.T, size int) (Answer, bool) {
	t.Helper()
	send := func(size int) Nonce {
		var n Nonce
		if _, err := rand.Read(n[:]); err != nil {
			t.Fatal(err)
		}
		if err := h.prober.Send(h.port, size, n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	big := send(size)
	smalls := map[Nonce]bool{send(MinProbe): true}
	for range 100 {
		select {
		case a := <-h.got:
			if a.Nonce == big {
				return a, true
			}
			if smalls[a.Nonce] {
				return Answer{}, false
			}
		case <-time.After(time.Second): // the switch drops the packet that makes it look for a MAC address
			smalls[send(MinProbe)] = true
		}
	}
	t.Fatal("not even small probes are answered")
	return Answer{}, false
}

// A probe comes back whole from the peer's switch, or is lost where the wire takes
// no packet of that size, and nothing else comes out of the switch.
func TestProbe(t *testing.T) {
	a, b := newProbed(t, 1400)
	const overhead = 36 // outer IPv4, UDP and VXLAN
	a.ask(t, MinProbe)  // both switches know the way
	for _, tt := range []struct {
		size int
		back bool
	}{{MinProbe, true}, {1000, true}, {1400 - overhead, true}, {1400 - overhead + 1, false}, {1464, false}} {
		got, back := a.ask(t, tt.size)
		if back != tt.back {
			t.Errorf("probe of %d bytes: back %t, want %t", tt.size, back, tt.back)
		}
		if back && (got.Size != tt.size || got.OFPort != a.port || got.MTU != 1501) {
			t.Errorf("probe of %d bytes: answer %+v, want port %d and MTU 1501", tt.size, got, a.port)
		}
	}
	if got, back := b.ask(t, 200); !back || got.MTU != 1500 {
		t.Errorf("the other way: %t %+v", back, got)
	}
	for len(a.got) > 0 {
		<-a.got
	}
	// Who does not know our MAC is not heard, though it has a tunnel to us: the
	// answer to a question of b that bears another source goes nowhere.
	stranger, err := b.s.OpenProber(t.Context(), "02:cc:cc:cc:cc:cc")
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	for range 20 {
		if err := stranger.Send(b.port, 100, Nonce{1}); err != nil {
			t.Fatal(err)
		}
	}
	own := Nonce{2}
	eventually(t, "our own probe comes back after those", func() bool {
		if err := b.prober.Send(b.port, MinProbe, own); err != nil {
			t.Fatal(err)
		}
		select {
		case a := <-b.got:
			if a.Nonce == (Nonce{1}) {
				t.Errorf("an answer to a stranger came: %+v", a)
			}
			return a.Nonce == own
		case <-time.After(time.Second):
			return false
		}
	})
	if len(a.got) > 0 {
		t.Errorf("questions came out: %v", <-a.got)
	}
	// The flows are as they should be: a whole comparison changes nothing.
	before := dump(t, a.i)
	f := Forwarding{Self: addr("198.18.0.1"), Peers: []Peer{{ID: "peer", VTEP: addr("198.18.0.2"), OFPort: a.port}}, Probe: Probe{MAC: secretA, MTU: 1500}}
	if err := a.s.Resync(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	if after := dump(t, a.i); strings.Join(before, "\n") != strings.Join(after, "\n") {
		t.Errorf("flows:\n%s\nthen:\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
	if !strings.Contains(strings.Join(before, "\n"), "dl_dst="+secretA) {
		t.Errorf("no flow hears answers:\n%s", strings.Join(before, "\n"))
	}
}

// What the switch says is read whatever it is.
func TestParseAnswer(t *testing.T) {
	good := make([]byte, 0, 128)
	good = binary.BigEndian.AppendUint32(good, ofNoBuffer)
	good = binary.BigEndian.AppendUint16(good, 1464)
	good = append(good, ofReasonAction, 0)
	good = binary.BigEndian.AppendUint64(good, Cookie)
	good = append(good, 0, 1, 0, 12)
	good = binary.BigEndian.AppendUint32(good, oxmInPort)
	good = append(good, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0)
	good = append(good, 2, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 2, 0x73, 0x70, 1, 0x05, 0xdc, 0x88, 0xb5)
	good = append(good, bytes.Repeat([]byte{7}, 16)...)
	want := Answer{OFPort: 5, Size: 1464, MTU: 1500, Nonce: Nonce(bytes.Repeat([]byte{7}, 16))}
	if got, ok := parseAnswer(good); !ok || got != want {
		t.Errorf("got %+v %t, want %+v", got, ok, want)
	}
	for n := range good {
		if _, ok := parseAnswer(good[:n]); ok {
			t.Errorf("the first %d bytes are taken", n)
		}
		for _, bit := range []byte{1, 0x80, 0xff} {
			bad := bytes.Clone(good)
			bad[n] ^= bit
			parseAnswer(bad) // does not panic
		}
	}
	for _, at := range []int{16 + 12 + 4 + 2 + 6, 16 + 12 + 4 + 2 + 12} { // source, type
		bad := bytes.Clone(good)
		bad[at] ^= 1
		if _, ok := parseAnswer(bad); ok {
			t.Errorf("with byte %d changed it is taken", at)
		}
	}
}

func FuzzParseAnswer(f *testing.F) {
	f.Add(make([]byte, 80))
	f.Fuzz(func(_ *testing.T, b []byte) { parseAnswer(b) })
}

// Probe is checked like all that becomes text of flows.
func TestProbeIsSane(t *testing.T) {
	for _, p := range []Probe{{MAC: "02:00:00:00:00:01,actions=drop", MTU: 1500}, {MAC: "03:00:00:00:00:01", MTU: 1500}, {MAC: secretA}, {MAC: secretA, MTU: 70000}} {
		for _, fl := range (Forwarding{Self: addr("198.18.0.1"), Probe: p}).Flows() {
			if strings.Contains(fl.Match, "dl_type=0x88b5") {
				t.Errorf("%+v: %s", p, fl)
			}
		}
	}
}
