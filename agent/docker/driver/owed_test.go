package driver

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/socketplane/socketplane/agent/api"
)

// busyAgent has no time to release anything for a while.
type busyAgent struct {
	*agent
	until time.Time
}

func (a busyAgent) Release(ctx context.Context, id string) error {
	if time.Now().Before(a.until) {
		return api.Errorf(api.CodeUnavailable, "endpoint %q is being detached", id)
	}
	a.endpoints = nil
	return a.agent.Release(ctx, id)
}

// What Docker gives back while the agent cannot take it is given back soon after,
// once; what Docker was given anew meanwhile is not.
func TestGivenBackInVain(t *testing.T) {
	for name, anew := range map[string]bool{"gone": false, "given anew": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &agent{networks: []api.Network{aNetwork("foo", "10.6.0.0/24")}}
				a.endpoints = []api.Endpoint{{ID: "e1", Network: "foo", IP: netip.MustParseAddr("10.6.0.9"), PrefixLen: 24, Source: api.SourceDriver}}
				d := newTestDriver(a)
				d.Service = busyAgent{agent: a, until: time.Now().Add(4 * time.Second)}
				d.known.setPools(map[netip.Prefix]string{netip.MustParsePrefix("10.6.0.0/24"): "foo"})
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan struct{})
				go func() { defer close(ended); d.payOwed(ctx) }()
				status, _ := call(t, d.Handler(), "IpamDriver.ReleaseAddress", `{"PoolID":"10.6.0.0/24","Address":"10.6.0.9"}`)
				if status == http.StatusOK {
					t.Error("a failure is not told")
				}
				if anew {
					if status, answer := call(t, d.Handler(), "IpamDriver.RequestAddress", `{"PoolID":"10.6.0.0/24","Address":"10.6.0.9"}`); status != http.StatusOK {
						t.Fatal(answer)
					}
				}
				time.Sleep(time.Minute) // of the bubble's clock
				synctest.Wait()
				if released := slices.Contains(a.asked, "release e1"); released == anew {
					t.Errorf("after a minute the agent was asked %q", a.asked)
				}
				if left := d.owed.list(); len(left) != 0 {
					t.Errorf("still owed: %v", left)
				}
				cancel()
				<-ended
			})
		})
	}
}
