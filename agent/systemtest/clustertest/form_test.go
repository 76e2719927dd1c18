package clustertest

import (
	"strings"
	"testing"
)

// form makes a cluster of h1 to hn, whatever these hosts were before. h1 begins it.
// All that they say until the test ends is captured, and holds no secret.
func form(t testing.TB, n int) {
	t.Helper()
	wire := listen(t)
	for k := 1; k <= n; k++ {
		if _, err := statusOf(t, k); err != nil {
			start(t, k, "")
		}
		awaitReady(t, k)
		try(t, k, "", "socketplane", "cluster", "leave", "--force") // fails where there is none
		awaitReady(t, k)
		// What a host alone has stands in the way of joining.
		for _, n := range networks(t, k) {
			if n != "default" {
				sp(t, k, "network", "delete", n)
			}
		}
	}
	sp(t, 1, "cluster", "bootstrap")
	token := sp(t, 1, "cluster", "token")
	t.Cleanup(func() { wire.keepsSecret(t, strings.TrimSpace(token)) })
	for k := 2; k <= n; k++ {
		if r := join(t, k, token, addr1); r.code != 0 {
			t.Fatal(r.stderr)
		}
	}
	servers := 1
	if n >= 3 {
		servers = 3
	}
	awaitServers(t, 1, n, servers)
}

// networks are the names of the networks that host k knows.
func networks(t testing.TB, k int) []string {
	t.Helper()
	var list []struct{ ID string }
	decode(t, sp(t, k, "network", "list", "-o", "json"), &list)
	var names []string
	for _, n := range list {
		names = append(names, n.ID)
	}
	return names
}
