package agent

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/network"
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

// BenchmarkEndpoints measures how this host's 50 endpoints are listed in a cluster of 500
// hosts with 50 endpoints each, and how all of them are.
func BenchmarkEndpoints(b *testing.B) {
	h := newTestHost(b)
	h.manyHosts(500)
	h.putLocals(50)
	snap := state.Snapshot{Index: 1}
	for i := range 500 {
		var list []string
		for j := range 50 {
			ip := netip.AddrFrom4([4]byte{10, 6, byte(10 + (i*50+j)>>8), byte(i*50 + j)})
			list = append(list, fmt.Sprintf(`{"id":"e%d-%d","ip":%q,"mac":%q,"ifname":"eth0","source":"docker","attached":true}`, i, j, ip, macOf(ip)))
		}
		value := fmt.Appendf(nil, `{"version":1,"endpoints":[%s]}`, strings.Join(list, ","))
		snap.Entries = append(snap.Entries, state.Entry{Key: network.EndpointsKey("foo", hostID(i)), Version: 1, Value: value})
	}
	if _, errs := h.view.set(partEndpoints, snap); len(errs) > 0 {
		b.Fatal(errs)
	}
	for name, list := range map[string]func(context.Context) ([]api.Endpoint, error){"this host": h.Endpoints, "all": h.AllEndpoints} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := list(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
