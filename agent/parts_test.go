package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/ipam"
)

func newManager(h *testHost) *network.Manager {
	return network.New(network.Config{Store: h.store.Store})
}

func TestCoalescer(t *testing.T) {
	var runs, sum, pending atomic.Int64
	gate := make(chan struct{})
	c := newCoalescer(newErrands(), time.Minute, func(context.Context) error {
		n := runs.Add(1)
		sum.Store(pending.Load())
		if n == 1 {
			<-gate
		}
		return nil
	})
	first := make(chan error, 1)
	go func() { first <- c.Do(t.Context()) }()
	eventually(t, "the first run", func() bool { return runs.Load() == 1 })
	// One that gives up leaves the run to the others.
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Do(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			mine := pending.Add(1)
			if err := c.Do(t.Context()); err != nil {
				t.Error(err)
			}
			if sum.Load() < mine {
				t.Errorf("returned after a run that began before its call")
			}
		})
	}
	eventually(t, "all have come", func() bool { return pending.Load() == 50 })
	close(gate)
	wg.Wait()
	if err := <-first; err != nil {
		t.Error(err)
	}
	if n := runs.Load(); n > 10 {
		t.Errorf("%d runs for 51 calls", n)
	}
}

func TestCoalescerAfterTheEnd(t *testing.T) {
	e := newErrands()
	c := newCoalescer(e, time.Minute, func(context.Context) error { return errors.New("ran") })
	e.finish(time.Second)
	if err := c.Do(t.Context()); err == nil || err.Error() != "ran" {
		t.Errorf("got %v", err)
	}
}

func TestErrandsAreEnded(t *testing.T) {
	e := newErrands()
	ended := make(chan error, 1)
	e.run(time.Hour, func(ctx context.Context) { <-ctx.Done(); ended <- ctx.Err() })
	e.finish(time.Millisecond)
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	default:
		t.Error("finish returned before the errand")
	}
}

func TestKeyLocks(t *testing.T) {
	var k keyLocks
	unlock, err := k.Lock(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := k.TryLock("a"); ok {
		t.Error("taken twice")
	}
	other, ok := k.TryLock("b")
	if !ok {
		t.Error("keys wait for each other")
	}
	other()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := k.Lock(gone, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	unlock()
	var wg sync.WaitGroup
	count := 0
	for range 100 {
		wg.Go(func() {
			unlock, err := k.Lock(t.Context(), "a")
			if err != nil {
				t.Error(err)
				return
			}
			defer unlock()
			count++
		})
	}
	wg.Wait()
	if count != 100 || len(k.locks) != 0 {
		t.Errorf("count %d, %d locks left", count, len(k.locks))
	}
}

func TestUndoStack(t *testing.T) {
	var order []int
	var u undoStack
	for i := range 3 {
		u.push(func(ctx context.Context) error {
			order = append(order, i)
			if i == 1 {
				return errors.New("cannot")
			}
			return ctx.Err()
		})
	}
	cause := errors.New("cause")
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	err := u.run(gone, cause)
	if diff := cmp.Diff([]int{2, 1, 0}, order); diff != "" {
		t.Error(diff)
	}
	undo, ok := errors.AsType[*undoError](err)
	if !errors.Is(err, cause) || !ok || undo.undo.Error() != "cannot" {
		t.Errorf("got %v", err)
	}
	if err := (undoStack{}).run(t.Context(), cause); err != cause { //nolint:errorlint // the very same
		t.Errorf("got %v", err)
	}
}

func TestTranslate(t *testing.T) {
	long := errors.Join(errors.New("one\n\ttwo"), fmt.Errorf("three: %w", state.ErrUnavailable), errors.New(strings.Repeat("x", 5000)))
	for _, tt := range []struct {
		err  error
		code api.Code
		says string
	}{
		{long, api.CodeUnavailable, "one; two; three: "},
		{fmt.Errorf("x: %w", api.Errorf(api.CodeInUse, "busy")), api.CodeInUse, "x: busy"},
		{fmt.Errorf("x: %w", state.ErrInvalid), api.CodeUnavailable, "token"},
		{context.Canceled, api.CodeUnavailable, "try again"},
		{errors.New("odd\x1b[2J"), api.CodeInternal, "odd [2J"},
		{&undoError{cause: ipam.ErrExhausted, undo: errors.New("a\nb")}, api.CodeExhausted, "undone"},
	} {
		err := translate(tt.err)
		wantCode(t, err, tt.code, tt.says)
		if len(err.Error()) > 1200 || !errors.Is(err, tt.err) && tt.code != api.CodeInUse {
			t.Errorf("%d bytes, %v", len(err.Error()), err)
		}
	}
	if translate(nil) != nil {
		t.Error("nil")
	}
	got := sentences(errors.Join(errors.New("a"), errors.Join(errors.New("b\nc"), errors.New("d"))))
	if diff := cmp.Diff([]string{"a", "b; c", "d"}, got); diff != "" {
		t.Error(diff)
	}
}

// TestViewAgainstLateSnapshots: a reading of our own and a watch that is behind
// do not undo each other.
func TestViewAgainstLateSnapshots(t *testing.T) {
	net := func(version uint64) state.Entry {
		return state.Entry{Key: network.Key("foo"), Version: version, Value: []byte(
			`{"version":1,"id":"foo","subnet":"10.6.0.0/16","gateway":"10.6.0.1","vlan":1,"vni":10001}`)}
	}
	snap := func(index uint64, entries ...state.Entry) state.Snapshot {
		return state.Snapshot{Index: index, Entries: entries}
	}
	record := func(version uint64) network.Record {
		r, err := network.Decode(net(version))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	has := func(v *view, want uint64) {
		t.Helper()
		if r, ok := v.network("foo"); r.Version != want || ok != (want != 0) {
			t.Errorf("the network is at version %d, want %d", r.Version, want)
		}
	}
	v := newView(selfID)
	v.set(partNetworks, snap(5))
	v.putNetwork(record(7)) // just created
	v.set(partNetworks, snap(6))
	has(v, 7)
	v.set(partNetworks, snap(7, net(7)))
	has(v, 7)
	gone, _ := v.set(partNetworks, snap(9)) // deleted
	has(v, 0)
	if len(gone) != 1 || gone[0] != netip.MustParsePrefix("10.6.0.0/16") {
		t.Errorf("gone: %v", gone)
	}
	v.putNetwork(record(7)) // a Get that took long
	has(v, 0)
	v.putNetwork(record(11))
	v.putNetwork(record(10))
	has(v, 11)
	start := v.now()
	v.now = func() time.Time { return start.Add(2 * freshFor) }
	v.set(partNetworks, snap(2)) // a store that began anew: not for ever
	has(v, 0)

	list := func(version uint64, ip string) state.Entry {
		a := netip.MustParseAddr(ip)
		value, err := encodeEndpoints([]endpoint{{ID: "r", IP: a, MAC: macOf(a), IfName: "eth0", Attached: true}}, "")
		if err != nil {
			t.Fatal(err)
		}
		return state.Entry{Key: network.EndpointsKey("foo", peerID), Version: version, Value: value}
	}
	remote := func(v *view, want string) {
		t.Helper()
		got := ""
		if l := v.remotes("foo")[peerID]; len(l) == 1 {
			got = l[0].IP.String()
		}
		if got != want {
			t.Errorf("the remote endpoint is %q, want %q", got, want)
		}
	}
	v = newView(selfID)
	v.set(partEndpoints, snap(5, list(4, "10.6.0.4")))
	v.putLists([]state.Entry{list(8, "10.6.0.8")})
	remote(v, "10.6.0.8")
	v.set(partEndpoints, snap(6, list(6, "10.6.0.6")))
	remote(v, "10.6.0.8")
	v.set(partEndpoints, snap(9, list(9, "10.6.0.9")))
	remote(v, "10.6.0.9")
	v.putLists([]state.Entry{list(8, "10.6.0.8")})
	remote(v, "10.6.0.9")
	broken := list(12, "10.6.0.9")
	broken.Value = []byte("{")
	v.set(partEndpoints, snap(12, broken))
	remote(v, "10.6.0.9") // the older reading stays in force
	v.set(partEndpoints, snap(13))
	remote(v, "")
}

func TestDecodeEndpoints(t *testing.T) {
	good := `{"version":1,"endpoints":[{"id":"r1","ip":"10.6.0.2","mac":"02:42:0a:06:00:02","ifname":"eth0","source":"docker","attached":true}]}`
	key := network.EndpointsKey("foo", peerID)
	if n, h, list, err := decodeEndpoints(state.Entry{Key: key, Value: []byte(good)}); err != nil || n != "foo" || h != peerID || len(list) != 1 {
		t.Fatalf("%q %q %v %v", n, h, list, err)
	}
	for name, value := range map[string]string{
		"empty": "", "no JSON": "x", "null layout": "null", "other layout": strings.Replace(good, `1,`, `2,`, 1),
		"trailing": good + "1", "multicast MAC": strings.Replace(good, "02:42", "03:42", 1),
		"another spelling": strings.ReplaceAll(good, "0a:", "0A:"),
		"IPv6":             strings.Replace(good, "10.6.0.2", "::1", 1), "bad id": strings.Replace(good, "r1", "../x", 1),
		"twice": twice(good),
	} {
		n, h, _, err := decodeEndpoints(state.Entry{Key: key, Value: []byte(value)})
		if err == nil || n != "foo" || h != peerID || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %q %q %v", name, n, h, err)
		}
	}
	for _, key := range []string{"foo", "foo/", "/x", "a/b/c"} {
		if n, h, _, err := decodeEndpoints(state.Entry{Key: network.EndpointsPrefix + key, Value: []byte(good)}); err == nil || n != "" || h != "" {
			t.Errorf("%s: %q %q %v", key, n, h, err)
		}
	}
}

func twice(list string) string {
	one := list[strings.Index(list, "[")+1 : strings.LastIndex(list, "]")]
	return strings.Replace(list, one, one+","+one, 1)
}

// TestStaleIsSaidOnce: a value that cannot be decoded stays in the store, and every
// other write to it brings a snapshot. The log does not say it again each time, nor
// does status list all of them when the store is full of such.
func TestStaleIsSaidOnce(t *testing.T) {
	v := newView("self")
	entries := make([]state.Entry, 300)
	for i := range entries {
		entries[i] = state.Entry{Key: fmt.Sprintf("%sn%03d", network.NetworksPrefix, i), Value: []byte("junk"), Version: 1}
	}
	set := func(index uint64, n int) []error {
		_, news := v.set(partNetworks, state.Snapshot{Index: index, Entries: entries[:n]})
		return news
	}
	for i, want := range []int{1, 0} {
		if news := set(uint64(i+1), 1); len(news) != want {
			t.Errorf("snapshot %d has the news %v, want %d", i+1, news, want)
		}
	}
	if news := set(3, 300); len(news) != maxStale || len(v.problems()) != maxStale+1 {
		t.Errorf("news %d, problems %d", len(news), len(v.problems()))
	}
	if news := set(4, 299); len(news) != 0 {
		t.Errorf("again: %v", news)
	}
	if set(5, 0); len(v.problems()) != 0 {
		t.Errorf("still: %v", v.problems())
	}
	if news := set(6, 1); len(news) != 1 {
		t.Errorf("one that comes again: %v", news)
	}
}
