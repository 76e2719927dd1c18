package mdns

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"
)

var h1 = Announcement{
	Instance: "h1-0a1b2c3d", Addr: netip.MustParseAddr("192.0.2.1"), Port: 8301, Text: []string{"v=1", "proof=abc"},
}

func packed(t testing.TB, packet []byte, err error) []byte {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return packet
}

func answered(t testing.TB, a Announcement, life uint32, legacy *message) []byte {
	t.Helper()
	packet, err := a.answer(life, legacy)
	return packed(t, packet, err)
}

func asked(t testing.TB) []byte {
	t.Helper()
	packet, err := question()
	return packed(t, packet, err)
}

func TestAnnouncementIsReadAsItWasMade(t *testing.T) {
	m, err := read(answered(t, h1, ttl, nil))
	if err != nil || !m.response {
		t.Fatalf("%+v, %v", m, err)
	}
	if diff := cmp.Diff(h1, *m.found, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if m, err := read(asked(t)); err != nil || m.response || !m.asks {
		t.Errorf("a question is read as %+v, %v", m, err)
	}
	if _, err := read(answered(t, h1, 0, nil)); err == nil {
		t.Error("a good-bye is an announcement")
	}
	m, err = read(answered(t, h1, ttl, &message{id: 4711}))
	if err != nil || m.id != 4711 || m.found == nil {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestKnownAnswers(t *testing.T) {
	service, instance := dnsmessage.MustNewName("_DOCKER._cluster.local."), dnsmessage.MustNewName("H1-0a1b2c3d."+Service)
	for life, want := range map[uint32]int{ttl: 1, ttl / 2: 1, ttl/2 - 1: 0, 0: 0} {
		m := dnsmessage.Message{
			Questions: []dnsmessage.Question{{Name: service, Type: dnsmessage.TypeALL, Class: dnsmessage.ClassINET | cacheFlush}},
			Answers: []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: service, Class: dnsmessage.ClassINET, TTL: life},
				Body:   &dnsmessage.PTRResource{PTR: instance},
			}},
		}
		packet, err := m.Pack()
		got, err := read(packed(t, packet, err))
		if err != nil || !got.asks || len(got.known) != want || want == 1 && got.known[0] != "h1-0a1b2c3d."+Service {
			t.Errorf("with %d s to live: %+v, %v", life, got, err)
		}
	}
}

// many is a response of n announcements' records.
func many(t testing.TB, n int) []byte {
	t.Helper()
	m := dnsmessage.Message{Header: dnsmessage.Header{Response: true}}
	for range n {
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(Service), Class: dnsmessage.ClassINET, TTL: ttl},
			Body:   &dnsmessage.PTRResource{PTR: dnsmessage.MustNewName("x." + Service)},
		})
	}
	packet, err := m.Pack()
	return packed(t, packet, err)
}

func hostile(t testing.TB) map[string][]byte {
	good := answered(t, h1, ttl, nil)
	long := h1
	long.Text = []string{strings.Repeat("x", 255), strings.Repeat("y", 255), "zzz"}
	other := bytes.ReplaceAll(good, []byte("_docker"), []byte("_dicker"))
	failed := bytes.Clone(good)
	failed[3] |= 3
	update := bytes.Clone(good)
	update[2] |= 5 << 3
	counts := bytes.Clone(good)
	binary.BigEndian.PutUint16(counts[6:], 65535)
	loop := append(bytes.Clone(asked(t)[:12]), 0xc0, 12, 0, 12, 0, 1)
	questions := bytes.Clone(asked(t)[:12])
	binary.BigEndian.PutUint16(questions[4:], 5000)
	for range 5000 {
		questions = append(questions, 0, 0, 12, 0, 1)
	}
	return map[string][]byte{
		"nothing": {}, "a header": good[:12], "half": good[:len(good)/2], "a byte less": good[:len(good)-1], "text too long": answered(t, long, ttl, nil),
		"another service": other, "a failure": failed, "an update": update, "records that are not there": counts,
		"a name that is its own end": loop, "too many questions": questions, "too many records": many(t, maxRecords+1), "no records but names": many(t, 3),
		"noise": bytes.Repeat([]byte{0xff, 0xc0, 0x0c}, 3000),
	}
}

func TestHostileMessages(t *testing.T) {
	for name, packet := range hostile(t) {
		if m, err := read(packet); err == nil {
			t.Errorf("%s is read as %+v", name, m)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(answered(f, h1, ttl, nil))
	f.Add(asked(f))
	for _, packet := range hostile(f) {
		f.Add(packet)
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		m, err := read(packet)
		if err != nil {
			return
		}
		if m.response != (m.found != nil) || !m.response && !m.asks || len(m.known) > maxRecords {
			t.Fatalf("%+v", m)
		}
		if m.found != nil && (!m.found.Addr.Is4() || size(m.found.Text) > maxText || len(m.found.Instance) > 255) {
			t.Fatalf("%+v", m.found)
		}
	})
}
