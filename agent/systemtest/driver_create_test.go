package systemtest

import (
	"fmt"
	"sync"
	"testing"
)

// Promise: networks without a subnet that Docker makes at the same moment, on two
// hosts, are all made, each with a subnet of its own, and are then on every host.
func TestNetworksMadeAtOnce(t *testing.T) {
	before := traces(t, 1)
	const each = 5
	for round := range 3 {
		prefix := fmt.Sprintf("once%d-", round)
		var all sync.WaitGroup
		results := make([]result, 2*each)
		for i := range results {
			all.Go(func() { results[i] = try(t, 1+i%2, append(ipamOurs, fmt.Sprint(prefix, i))...) })
		}
		all.Wait()
		for i, r := range results {
			if r.code != 0 {
				t.Errorf("round %d: h%d: network %d: %s", round, 1+i%2, i, r.stderr)
			}
		}
		for i := range results {
			for k := 1; k <= 3; k++ {
				dockerHas(t, k, fmt.Sprint(prefix, i), true)
			}
		}
		if got := kv(t, "networks/"+prefix); len(got) != len(results) {
			t.Errorf("round %d: the cluster has %v", round, got)
		}
		for i := range results {
			must(t, 1+i%2, "docker", "network", "rm", fmt.Sprint(prefix, i))
		}
		clusterHasNone(t, prefix)
	}
	leavesNothing(t, 1, before)
}
