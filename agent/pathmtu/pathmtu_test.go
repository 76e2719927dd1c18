package pathmtu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/socketplane/socketplane/ovs"
)

// network is one in memory: by the tunnel's port, how each peer answers.
type network struct {
	mu      sync.Mutex
	paths   map[int]*path
	sent    int // probes
	bytes   int
	answers chan ovs.Answer
	closed  chan struct{}
	once    sync.Once
}

type path struct {
	mtu    int     // larger packets vanish
	iface  int     // what the peer says of its interface
	silent bool    // it answers nothing
	loss   float64 // of packets of any size
	delay  time.Duration
}

func newNet(paths ...*path) *network {
	n := &network{paths: map[int]*path{}, answers: make(chan ovs.Answer, 10000), closed: make(chan struct{})}
	for i, p := range paths {
		n.paths[i+1] = p
	}
	return n
}

func (n *network) Send(ofport, size int, nonce ovs.Nonce) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sent++
	n.bytes += size
	p := n.paths[ofport]
	if p == nil || p.silent || size+outer > p.mtu || rand.Float64() < p.loss {
		return nil
	}
	a := ovs.Answer{OFPort: ofport, Size: size, Nonce: nonce, MTU: p.iface}
	time.AfterFunc(p.delay+time.Millisecond, func() { n.answers <- a })
	return nil
}

func (n *network) Receive() (ovs.Answer, error) {
	select {
	case a := <-n.answers:
		return a, nil
	case <-n.closed:
		return ovs.Answer{}, io.EOF
	}
}

func (n *network) Close() { n.once.Do(func() { close(n.closed) }) }

// change changes how peers answer.
func (n *network) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
}

func (n *network) count() (probes, bytes int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sent, n.bytes
}

type fixture struct {
	*Paths
	net     *network
	changes int
	mu      sync.Mutex
}

// start runs Paths over a network until the test ends.
func start(t *testing.T, file string, n *network) *fixture {
	f := &fixture{net: n}
	f.Paths = New(file, func(context.Context, string) (Wire, error) { return n, nil }, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- f.Run(ctx, func() { f.mu.Lock(); f.changes++; f.mu.Unlock() })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return f
}

func (f *fixture) changed() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changes
}

func peers(n int) []Peer {
	var list []Peer
	for i := 1; i <= n; i++ {
		list = append(list, Peer{ID: fmt.Sprint("id", i), Name: fmt.Sprint("h", i), VTEP: netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), OFPort: i, Alive: true})
	}
	return list
}

// wantPaths compares what is known, as "mtu", "mtu!" where the path is the limit, or "-".
func (f *fixture) want(t *testing.T, when string, want ...string) {
	t.Helper()
	synctest.Wait()
	known, _ := f.Known()
	var got []string
	for i := range want {
		p := known[fmt.Sprint("id", i+1)]
		s := fmt.Sprint(p.MTU)
		if p.MTU == 0 {
			s = "-"
		}
		if p.Limited {
			s += "!"
		}
		got = append(got, s)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", when, diff)
	}
}

// Each kind of path is found, to the byte.
func TestFindsPaths(t *testing.T) {
	for _, tt := range []struct {
		name  string
		iface int
		path  path
		want  string
		clamp int
		says  string
	}{
		{"whole", 1500, path{mtu: 1500, iface: 1500}, "1500", 1500, ""},
		{"narrow", 1500, path{mtu: 1400, iface: 1500}, "1400!", 1400, `packets of more than 1400 bytes do not reach host "h1" (198.18.0.1), though the interfaces take 1500: the MTU of all networks is 1350`},
		{"one byte", 1500, path{mtu: 1499, iface: 1500}, "1499!", 1499, "1449"},
		{"the least", 1500, path{mtu: 1280, iface: 1500}, "1280!", 1280, "1230"},
		{"less than the least", 1500, path{mtu: 1279, iface: 1500}, "1280!", 1280, "packets of 1280 bytes do not reach"},
		{"next to nothing", 1500, path{mtu: 600, iface: 1500}, "1280!", 1280, "packets of 1280 bytes do not reach"},
		{"jumbo", 9000, path{mtu: 9000, iface: 9000}, "9000", 9000, ""},
		{"jumbo over a usual wire", 9000, path{mtu: 1500, iface: 9000}, "1500!", 1500, "1450"},
		{"jumbo over an odd wire", 9000, path{mtu: 8973, iface: 9000}, "8973!", 8973, "8923"},
		// The peer's record says so itself: no fault of the path's.
		{"a peer with a small interface", 9000, path{mtu: 1500, iface: 1500}, "1500", 9000, ""},
		{"a peer with a large interface", 1500, path{mtu: 1500, iface: 9000}, "1500", 1500, ""},
		{"a small one and a narrow path", 9000, path{mtu: 1400, iface: 1500}, "1400!", 1400, "1350"},
		{"an older release", 1500, path{mtu: 1400, iface: 1500, silent: true}, "-", 1500, ""},
		{"a slow path", 1500, path{mtu: 1400, iface: 1500, delay: 800 * time.Millisecond}, "1400!", 1400, "1350"},
		{"smaller than the least on purpose", 1200, path{mtu: 1200, iface: 1200}, "-", 1200, ""},
		{"the largest", 65535, path{mtu: 65535, iface: 65535}, "65036", 65535, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := start(t, filepath.Join(t.TempDir(), "f"), newNet(&tt.path))
				if got := f.Clamp(tt.iface); got != tt.iface {
					t.Errorf("before anything is known: %d", got)
				}
				f.Set(peers(1))
				time.Sleep(40 * time.Second)
				f.want(t, "then", tt.want)
				if got := f.Clamp(tt.iface); got != tt.clamp {
					t.Errorf("this host's MTU is %d, want %d", got, tt.clamp)
				}
				_, says := f.Known()
				if all := strings.Join(says, "\n"); (tt.says == "") != (all == "") || !strings.Contains(all, tt.says) {
					t.Errorf("said %q, want %q", all, tt.says)
				}
				probes, _ := f.net.count()
				t.Logf("%d probes in 40 s", probes)
				if probes > 250 {
					t.Errorf("%d probes", probes)
				}
				if want := map[bool]int{true: 1}[tt.says != ""]; f.changed() != want {
					t.Errorf("%d changes, want %d", f.changed(), want)
				}
			})
		})
	}
}

// A path that becomes narrow while it is used is found at the next check, one that
// becomes narrower still too; one that is whole again is believed after two minutes
// without a lapse, and each fall doubles that.
func TestPathsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &path{mtu: 1500, iface: 1500}
		f := start(t, filepath.Join(t.TempDir(), "f"), newNet(p))
		f.Clamp(1500)
		f.Set(peers(1))
		to := func(mtu int) { f.net.change(func() { p.mtu = mtu }) }
		time.Sleep(time.Second)
		f.want(t, "at first", "1500")
		to(1400)
		time.Sleep(25 * time.Second)
		f.want(t, "narrow", "1400!")
		to(1300)
		time.Sleep(25 * time.Second)
		f.want(t, "narrower", "1300!") // the second fall
		to(1500)
		time.Sleep(3 * time.Minute)
		f.want(t, "three minutes later", "1300!")
		to(1300) // a lapse
		time.Sleep(25 * time.Second)
		to(1500)
		time.Sleep(3 * time.Minute)
		f.want(t, "after a lapse", "1300!")
		time.Sleep(2 * time.Minute)
		f.want(t, "whole again", "1500")
		if f.Clamp(1500) != 1500 {
			t.Error("the MTU is not back")
		}
		to(1400)
		time.Sleep(25 * time.Second)
		to(1450)
		time.Sleep(7 * time.Minute)
		f.want(t, "a little better, after the third fall", "1400!")
		time.Sleep(3 * time.Minute)
		f.want(t, "at last", "1450!")
		f.Clamp(9000) // both interfaces changed
		f.net.change(func() { p.iface, p.mtu = 9000, 9000 })
		time.Sleep(20 * time.Minute)
		f.want(t, "jumbo", "9000")
		time.Sleep(30 * time.Hour)
		to(1400)
		time.Sleep(25 * time.Second)
		to(9000)
		time.Sleep(3 * time.Minute)
		f.want(t, "a fall that is long past does not count", "9000")
	})
}

// A path that loses packets of any size, and a peer that stops answering, change
// nothing; when they answer again the path is measured again.
func TestLossIsNoLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &path{mtu: 1500, iface: 1500}
		f := start(t, filepath.Join(t.TempDir(), "f"), newNet(p))
		f.Clamp(1500)
		f.Set(peers(1))
		time.Sleep(time.Second)
		for _, loss := range []float64{0.1, 0.3, 0.5, 0.8, 0.95, 1} {
			f.net.change(func() { p.loss = loss })
			time.Sleep(time.Hour)
			f.want(t, fmt.Sprintf("%.0f %% lost", 100*loss), "1500")
		}
		if f.changed() > 0 {
			t.Errorf("%d changes", f.changed())
		}
		f.net.change(func() { p.loss, p.mtu = 0, 1400 })
		time.Sleep(time.Minute)
		f.want(t, "then narrow", "1400!")
		f.net.change(func() { p.silent = true })
		time.Sleep(time.Hour)
		f.want(t, "silent", "1400!")
	})
}

// What was found outlives the agent: the MTU does not rise with a restart. What the
// file cannot say is measured.
func TestRestartKeepsLimits(t *testing.T) {
	file := filepath.Join(t.TempDir(), "path-mtu.json")
	synctest.Test(t, func(t *testing.T) {
		f := start(t, file, newNet(&path{mtu: 1400, iface: 1500}, &path{mtu: 1500, iface: 1500}, &path{mtu: 1000, iface: 1500}))
		f.Clamp(1500)
		f.Set(peers(3))
		time.Sleep(time.Minute)
		f.want(t, "at first", "1400!", "1500", "1280!")
	})
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	synctest.Test(t, func(t *testing.T) {
		f := start(t, file, newNet(&path{mtu: 1400, iface: 1500, silent: true}))
		if got := f.Clamp(1500); got != 1280 {
			t.Errorf("before the peers are known the MTU is %d", got)
		}
		f.Set(peers(1))
		if got := f.Clamp(1500); got != 1400 {
			t.Errorf("without the third host the MTU is %d", got)
		}
		moved := peers(1)
		moved[0].VTEP = netip.MustParseAddr("198.18.9.9")
		f.Set(moved)
		if got := f.Clamp(1500); got != 1500 {
			t.Errorf("at another address the MTU is %d", got)
		}
	})
	for _, junk := range []string{
		"", "x", "{}", `{"version":2}`, `{"version":1,"peers":[{"id":"id1","vtep":"198.18.0.1","mtu":-5},{"id":"","mtu":1300},{"mtu":"x"}]}`,
		`{"version":1,"peers":[{"id":"id1","vtep":"198.18.0.1","mtu":90}]}`, strings.Repeat("x", fileLimit+1),
	} {
		if err := os.WriteFile(file, []byte(junk), 0o600); err != nil {
			t.Fatal(err)
		}
		p := New(file, nil, slog.New(slog.DiscardHandler))
		if got := p.Clamp(1500); got != 1500 {
			t.Errorf("with %.40q the MTU is %d", junk, got)
		}
	}
}

// A peer that is away keeps its limit for a day, and that limits nobody meanwhile.
func TestPeersComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, filepath.Join(t.TempDir(), "f"), newNet(&path{mtu: 1400, iface: 1500}, &path{mtu: 1500, iface: 1500}))
		f.Clamp(1500)
		f.Set(peers(2))
		time.Sleep(time.Minute)
		f.Set(peers(2)[1:])
		if got := f.Clamp(1500); got != 1500 {
			t.Errorf("a host that is gone limits the MTU to %d", got)
		}
		f.want(t, "gone", "-", "1500")
		time.Sleep(time.Hour)
		f.Set(peers(2))
		if got := f.Clamp(1500); got != 1400 {
			t.Errorf("back, and the MTU is %d", got)
		}
		f.Set(nil)
		time.Sleep(25 * time.Hour)
		f.Set(nil)
		f.Paths.mu.Lock()
		left := len(f.peers)
		f.Paths.mu.Unlock()
		if left > 0 {
			t.Errorf("%d peers are kept", left)
		}
	})
}

// The cost: a thousand peers are asked at ten a second at first and two a second
// after, with two probes each, one of them large. A peer of an older release is asked
// no more often.
func TestThousandPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var paths []*path
		for i := range 1000 {
			paths = append(paths, &path{mtu: 1500, iface: 1500, silent: i%10 == 0})
		}
		paths[501].mtu = 1400
		f := start(t, filepath.Join(t.TempDir(), "f"), newNet(paths...))
		f.Clamp(1500)
		f.Set(peers(1000))
		time.Sleep(2 * time.Second)
		if n, _ := f.net.count(); n > 2*tries*3*10 {
			t.Errorf("%d probes in the first two seconds", n)
		}
		time.Sleep(10 * time.Minute)
		before, bytes := f.net.count()
		time.Sleep(20 * time.Minute)
		after, all := f.net.count()
		rate, volume := float64(after-before)/1200, float64(all-bytes)/1200
		t.Logf("%.1f probes and %.0f bytes a second", rate, volume)
		if rate > 8 || volume > 8000 {
			t.Errorf("%.1f probes and %.0f bytes a second", rate, volume)
		}
		if f.Clamp(1500) != 1400 {
			t.Error("the narrow path was not found")
		}
		// All narrow: a handful of sentences.
		f.net.change(func() {
			for _, p := range paths {
				p.mtu = 1400
			}
		})
		time.Sleep(20 * time.Minute)
		if _, says := f.Known(); len(says) != maxProblems+1 || !strings.Contains(says[maxProblems], "880 more hosts") {
			t.Errorf("%d sentences, the last %q", len(says), says[len(says)-1])
		}
	})
}

// Answers that are not those to our questions change nothing.
func TestForgedAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &path{mtu: 1400, iface: 1500}
		n := newNet(p, &path{mtu: 1500, iface: 1500})
		f := start(t, filepath.Join(t.TempDir(), "f"), n)
		f.Clamp(1500)
		liar := func(ctx context.Context) {
			for ctx.Err() == nil {
				for _, size := range []int{0, ovs.MinProbe, 1464, 1 << 20, -1} {
					n.answers <- ovs.Answer{OFPort: 1, Size: size, MTU: 600, Nonce: ovs.Nonce{byte(size)}}
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go liar(ctx)
		f.Set(peers(2))
		time.Sleep(time.Minute)
		f.want(t, "under attack", "1400!", "1500")
		cancel()
		time.Sleep(time.Second) // the liar ends
	})
	// The right nonce with another size, or by another tunnel, is none either.
	n := newNet()
	x := newExchange(n)
	got := make(chan ovs.Answer, 4)
	x.open[ovs.Nonce{1}] = question{ofport: 1, size: 1464, answered: got}
	for _, a := range []ovs.Answer{{OFPort: 2, Size: 1464}, {OFPort: 1, Size: 60}, {OFPort: 1, Size: 1464, MTU: 7}, {OFPort: 1, Size: 1464}} {
		a.Nonce = ovs.Nonce{1}
		n.answers <- a
	}
	done := make(chan struct{})
	go func() { x.hear(); close(done) }()
	if a := <-got; a.MTU != 7 {
		t.Errorf("got %+v", a)
	}
	n.Close()
	<-done
	if len(got) > 0 {
		t.Errorf("and then %+v", <-got)
	}
}

// A switch that goes away is connected to again.
func TestWireBreaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nets := []*network{newNet(&path{mtu: 1500, iface: 1500}), nil, newNet(&path{mtu: 1400, iface: 1500})}
		opened := 0
		p := New(filepath.Join(t.TempDir(), "f"), func(context.Context, string) (Wire, error) {
			opened++
			if n := nets[opened-1]; n != nil {
				return n, nil
			}
			return nil, errors.New("away")
		}, slog.New(slog.DiscardHandler))
		p.Clamp(1500)
		p.Set(peers(1))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx, func() {}) }()
		time.Sleep(5 * time.Second)
		nets[0].Close()
		time.Sleep(time.Minute)
		if got := p.Clamp(1500); got != 1400 || opened != 3 {
			t.Errorf("MTU %d after %d openings", got, opened)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
