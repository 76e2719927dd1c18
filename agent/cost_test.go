package agent

import (
	"fmt"
	"testing"

	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/state/consultest"
	"github.com/socketplane/socketplane/ipam"
)

// BenchmarkClaim measures how a start looks at the addresses of 1,000 networks, each
// with a block of another host. lists is how often it asks the store for many keys.
func BenchmarkClaim(b *testing.B) {
	b.Run("file", func(b *testing.B) { benchmarkClaim(b, newTestHost(b)) })
	b.Run("consul", func(b *testing.B) {
		store, err := state.OpenConsul(state.ConsulConfig{Address: consultest.Start(b)})
		if err != nil {
			b.Fatal(err)
		}
		defer store.Close()
		benchmarkClaim(b, newTestHostOn(b, store))
	})
}

func benchmarkClaim(b *testing.B, h *testHost) {
	_, pools := h.many(1000)
	for i, p := range pools {
		h.put(ipam.Prefix(p.Subnet)+"0", fmt.Sprintf(`{"version":1,"host":%q,"owners":{%q:"%s/c%d"}}`, peerID, p.Gateway.Next(), peerID, i))
	}
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		h.start()
		h.watch()
		h.calls.Reset()
		b.StartTimer()
		if err := h.claim(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(h.lists()), "lists")
}
