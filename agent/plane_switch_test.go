package agent

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/ovs"
	"github.com/socketplane/socketplane/ovs/ovstest"
)

// TestRealSwitchHealsWithoutStore: a real ovs-vswitchd that is killed and started has
// its flows again while converge still waits for a store that hangs.
func TestRealSwitchHealsWithoutStore(t *testing.T) {
	i := ovstest.Start(t)
	s, err := ovs.Open(t.Context(), ovs.Config{RunDir: i.Dir, Datapath: ovs.DatapathNetdev})
	if err != nil {
		t.Fatal(err)
	}
	h := newTestHost(t)
	h.start()
	h.Switch = s
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- s.Run(ctx) }()
	go func() { ended <- h.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		for range cap(ended) {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		s.Close()
	})
	<-h.known
	for _, id := range []string{"c1", "c2"} {
		i.AddVeth(t, link.HostName(id))
		h.mustAttach(id, "foo", "/ns/"+id)
	}
	flows := func() []string {
		// A switch that has just started does not listen for the bridge yet.
		out, err := i.Try("ovs-ofctl", "-O", "OpenFlow14", "--no-stats", "--no-names", "dump-flows", "unix:"+i.Dir+"/"+s.Bridge()+".mgmt")
		if err != nil {
			return nil
		}
		var lines []string
		for line := range strings.Lines(out) {
			if strings.Contains(line, "cookie=") {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
		slices.Sort(lines)
		return lines
	}
	want := flows()
	if len(want) < 20 {
		t.Fatalf("flows: %q", want)
	}
	// The watches go on, and each asks the store again after a while.
	hangs := []string{"Store.Get", "Store.List", "Store.CompareAndSet", "Store.Delete", "Store.Txn"}
	for _, call := range hangs {
		defer h.calls.Block(call)()
	}
	asked := func() (n int) {
		for _, name := range h.calls.Names() {
			if slices.Contains(hangs, name) {
				n++
			}
		}
		return n
	}
	before := asked()
	h.reclaim.Store(true)
	signal(h.kick)
	eventually(t, "converge waits for the store", func() bool { return asked() > before })
	waits := asked()
	for range 2 {
		i.KillSwitch(t)
		i.StartSwitch(t)
		eventually(t, "the flows are back", func() bool { return cmp.Equal(want, flows()) })
	}
	if asked() != waits {
		t.Error("converge has gone on meanwhile: the test shows nothing")
	}
}
