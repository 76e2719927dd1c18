package agent

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/socketplane/socketplane/agent/agenttest"
	"github.com/socketplane/socketplane/ovs"
)

// A lasting error of the switch is retried by converge alone, not by watchPlane as well.
func TestLastingErrorIsRetriedOnce(t *testing.T) {
	for name, tc := range map[string]struct{ call string }{
		"tunnels": {"Switch.SetTunnels"},
		"flows":   {"Switch.Resync"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newTestHost(t)
				h.mustAttach("c1", "foo", "/ns/1")
				h.start()
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- h.Run(ctx) }()
				<-h.known
				time.Sleep(slowTimer)
				want := h.sw.State()
				h.calls.Fail(tc.call, agenttest.ErrFailed)
				h.sw.Change("", func(*ovs.Port) bool { return false })
				time.Sleep(5 * time.Second)
				synctest.Wait()
				before := len(h.calls.Names())
				const seconds = 60
				time.Sleep(seconds * time.Second)
				synctest.Wait()
				passes, resyncs := 0, 0
				for _, n := range h.calls.Names()[before:] {
					switch n {
					case "Switch.SetTunnels":
						passes++
					case "Switch.Resync":
						resyncs++
					}
				}
				if passes > seconds+2 || passes < seconds/2 {
					t.Errorf("%d passes over the data plane in %d s", passes, seconds)
				}
				if tc.call != "Switch.Resync" && resyncs > 4 {
					t.Errorf("%d comparisons of the flows in %d s", resyncs, seconds)
				}
				h.calls.Fail(tc.call, nil)
				_ = h.sw.SetForwarding(t.Context(), ovs.Forwarding{})
				time.Sleep(slowTimer + retryConverge)
				synctest.Wait()
				if diff := cmp.Diff(want, h.sw.State()); diff != "" {
					t.Errorf("after the error (-want +got):\n%s", diff)
				}
				stop()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A pass of converge that holds the data plane while it waits for a tunnel is not followed
// by one of watchPlane.
func TestLongPassIsNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestHost(t)
		h.mustAttach("c1", "foo", "/ns/1")
		h.start()
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- h.Run(ctx) }()
		<-h.known
		time.Sleep(slowTimer)
		release := h.calls.Block("Switch.SetTunnels") // until the deadline of each pass
		h.sw.Change("", func(*ovs.Port) bool { return false })
		time.Sleep(2 * convergeTimeout)
		synctest.Wait()
		before := len(h.calls.Names())
		const rounds = 10
		time.Sleep(rounds * (convergeTimeout + retryConverge))
		synctest.Wait()
		passes := 0
		for _, n := range h.calls.Names()[before:] {
			if n == "Switch.SetTunnels" {
				passes++
			}
		}
		if passes > rounds+1 {
			t.Errorf("%d passes over the data plane in the time of %d", passes, rounds)
		}
		release()
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// What failed comes back while converge waits for the store: then watchPlane retries.
func TestErrorIsRetriedWithoutStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := planeHost(t)
		want := h.sw.State()
		for range 3 {
			h.calls.Fail("Switch.SetTunnels", agenttest.ErrFailed)
			h.sw.Change(ovs.TunnelName(peerID), func(*ovs.Port) bool { return false })
			time.Sleep(time.Minute)
			h.calls.Fail("Switch.SetTunnels", nil)
			time.Sleep(planePatience)
			synctest.Wait()
			if diff := cmp.Diff(want, h.sw.State()); diff != "" {
				t.Fatalf("(-want +got):\n%s", diff)
			}
		}
	})
}
