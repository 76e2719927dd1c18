package cluster

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// watched is a Detector over a world that the test makes.
type watched struct {
	*Detector
	live    []string
	err     error
	answers map[netip.Addr]bool
	asked   int
}

// believed is the judgement on the hosts of these tests.
func believed(id string) bool { return id != "claims" }

func newWatched(drainAfter time.Duration) *watched {
	w := &watched{answers: map[netip.Addr]bool{}}
	w.Detector = NewDetector(drainAfter, func(context.Context) ([]string, error) { w.asked++; return w.live, w.err })
	w.Detector.answers = func(_ context.Context, host netip.Addr) bool { return w.answers[host] }
	return w
}

func host(id string, last byte, alive bool) Host {
	return Host{ID: id, Name: id, VTEP: netip.AddrFrom4([4]byte{192, 0, 2, last}), Node: "node-" + id, Alive: alive, Revision: 7}
}

func TestDetector(t *testing.T) {
	const drain = 20 * time.Second
	dead, other := host("dead", 2, false), host("other", 3, true)
	for _, c := range []struct {
		name string
		make func(w *watched, h *Host) []Host // hosts beside h
		want time.Duration                    // from the session's end until it is gone; 0: never
	}{
		{"the machine is dead", func(w *watched, _ *Host) []Host { w.live = []string{"node-other"}; return nil }, drain},
		{"only the agent is", func(w *watched, _ *Host) []Host { w.live = []string{"node-other", "node-dead"}; return nil }, 0},
		{"agent and Consul are, the kernel answers", func(w *watched, h *Host) []Host { w.answers[h.VTEP] = true; return nil }, 0},
		{"nobody watches the machine", func(w *watched, h *Host) []Host {
			h.Node = ""
			w.live = []string{"node-other"}
			return nil
		}, unwatched * drain},
		{"nobody watches it, the kernel answers", func(w *watched, h *Host) []Host { h.Node, w.answers[h.VTEP] = "", true; return nil }, 0},
		{"the store cannot tell", func(w *watched, _ *Host) []Host { w.err = errors.New("no leader"); return nil }, 0},
		{"another has its address", func(w *watched, h *Host) []Host {
			w.live, w.answers[h.VTEP] = []string{"node-dead"}, true
			return []Host{{ID: "new", VTEP: h.VTEP, Node: "node-dead", Alive: true}}
		}, drain},
		{"another claims its address", func(w *watched, h *Host) []Host {
			w.live, w.answers[h.VTEP] = []string{"node-dead"}, true
			return []Host{{ID: "claims", VTEP: h.VTEP, Node: "node-claims", Alive: true}}
		}, 0},
		{"another claims its address, and the machine is dead", func(w *watched, h *Host) []Host {
			w.live, w.answers[h.VTEP] = []string{"node-claims"}, true // the other is there
			return []Host{{ID: "claims", VTEP: h.VTEP, Node: "node-claims", Alive: true}}
		}, drain},
		{"another claims its address, and nobody watches the machine", func(w *watched, h *Host) []Host {
			h.Node, w.answers[h.VTEP] = "", true
			return []Host{{ID: "claims", VTEP: h.VTEP, Node: "node-claims", Alive: true}}
		}, unwatched * drain},
		{"another has its node", func(w *watched, _ *Host) []Host {
			w.live = []string{"node-dead"}
			return []Host{{ID: "new", VTEP: netip.MustParseAddr("192.0.2.9"), Node: "node-dead", Alive: true}}
		}, drain},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, h := newWatched(drain), dead
				hosts := append([]Host{other}, c.make(w, &h)...)
				hosts = append(hosts, h)
				start := time.Now()
				for time.Since(start) < 2*unwatched*drain {
					gone, _ := w.Look(t.Context(), hosts, believed)
					since, is := gone[h.ID]
					if after := time.Since(start); is != (c.want > 0 && after >= c.want) {
						t.Fatalf("after %v: gone %v", after, is)
					}
					if is && since.Sub(start) != c.want {
						t.Fatalf("gone since %v after the session's end, want %v", since.Sub(start), c.want)
					}
					time.Sleep(time.Second)
				}
			})
		})
	}
}

// TestDetectorReturns: whoever shows life is not gone any more, and the wait
// begins anew.
func TestDetectorReturns(t *testing.T) {
	const drain = 20 * time.Second
	for name, revive := range map[string]func(w *watched, h *Host) (undo func()){
		"its session":       func(_ *watched, h *Host) func() { h.Alive = true; return func() { h.Alive = false } },
		"a write of its":    func(_ *watched, h *Host) func() { h.Revision++; return func() {} },
		"its machine":       func(w *watched, _ *Host) func() { w.live = []string{"node-dead"}; return func() { w.live = nil } },
		"its kernel":        func(w *watched, h *Host) func() { w.answers[h.VTEP] = true; return func() { clear(w.answers) } },
		"nothing, but lost": func(w *watched, _ *Host) func() { w.err = errors.New("away"); return func() { w.err = nil } },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, h := newWatched(drain), host("dead", 2, false)
				look := func() bool {
					gone, _ := w.Look(t.Context(), []Host{h}, believed)
					_, is := gone[h.ID]
					return is
				}
				if look() || w.asked > 0 {
					t.Error("asked at once")
				}
				time.Sleep(drain)
				if !look() {
					t.Fatal("not gone")
				}
				undo := revive(w, &h)
				if back := !look(); back != (w.err == nil) {
					t.Fatalf("back: %v", back)
				}
				undo()
				time.Sleep(drain)
				look()
				time.Sleep(drain)
				if !look() {
					t.Error("not gone again")
				}
			})
		})
	}
}

// TestAnswers: a refusal is an answer, silence is none.
func TestAnswers(t *testing.T) {
	if !Answers(t.Context(), netip.MustParseAddr("127.0.0.1")) {
		t.Error("this machine does not answer")
	}
	l, err := net.Listen("tcp", "127.0.0.2:8301")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if !Answers(t.Context(), netip.MustParseAddr("127.0.0.2")) {
		t.Error("what accepts does not answer")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if Answers(ended, netip.MustParseAddr("127.0.0.1")) {
		t.Error("answered after the end")
	}
}
