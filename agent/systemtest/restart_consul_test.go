package systemtest

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Promise: the loss of Consul changes nothing for packets and running
// containers; what needs it fails with one line; when it is back, all works.
func TestConsulRestart(t *testing.T) {
	makeNetwork(t, 2, "consul", "10.151.0.0/24")
	a, b := runContainer(t, 1, "consul", "co-a"), runContainer(t, 2, "consul", "co-b")
	goes, restarts := runContainer(t, 1, "consul", "co-goes"), runContainer(t, 1, "consul", "co-restarts")
	eventually(t, "reach each other", func() error { return a.pings(t, b.ip) })
	pinging := func() []*prober {
		return []*prober{
			startProbe(t, "h1 to h2", a.namespace(t), b.ip),
			startProbe(t, "h1 to the outside", a.namespace(t), "203.0.113.1"),
		}
	}
	probes := pinging()
	service(t, 1, "kill", "consul")

	start := time.Now()
	r := try(t, 1, "socketplane", "network", "create", "consul2", "10.152.0.0/24")
	sentence(t, "network create", r, 1)
	t.Logf("it took %s", time.Since(start).Round(time.Millisecond))
	if !strings.Contains(strings.ToLower(r.stderr), "consul") {
		t.Errorf("the line does not name Consul: %s", r.stderr)
	}
	probes[0].awaitSent(t, 100)
	lostNothing(t, 100, probes...)
	// A container that held its address before goes on without the store.
	must(t, 1, "docker", "restart", "-t", "0", restarts.name)
	eventually(t, "a restarted container is reached", func() error { return a.pings(t, restarts.ip) })
	must(t, 1, "docker", "rm", "-f", goes.name)
	sp(t, 1, "info")
	// The others go on: two of three servers have a leader.
	far := func() container {
		eventually(t, "the others have a leader", func() error {
			if r := try(t, 2, "socketplane", "network", "list"); r.code != 0 {
				return fmt.Errorf("%s", r.stderr)
			}
			return nil
		})
		return runContainer(t, 2, "consul", "co-far")
	}()
	probes = pinging()
	service(t, 1, "start", "consul")
	eventually(t, "network create works again", func() error {
		if r := try(t, 1, "socketplane", "network", "create", "consul2", "10.152.0.0/24"); r.code != 0 {
			return fmt.Errorf("%s", r.stderr)
		}
		return nil
	})
	t.Cleanup(func() { try(t, 1, "socketplane", "network", "delete", "consul2") })
	probes[0].awaitSent(t, 100)
	lostNothing(t, 100, probes...)
	eventually(t, "what came meanwhile is reached", func() error { return a.pings(t, far.ip) })
	eventually(t, "what was removed meanwhile goes", func() error {
		if strings.Contains(must(t, 2, "consul", "kv", "get", "-recurse", "socketplane/v1/endpoints/consul/"), `"`+goes.ip+`"`) {
			return fmt.Errorf("%s is still published", goes.ip)
		}
		return nil
	})
	n1, n2 := runContainer(t, 1, "consul2", "co-n1"), runContainer(t, 2, "consul2", "co-n2")
	eventually(t, "the new network works", func() error { return n1.pings(t, n2.ip) })
	for k := range 3 {
		awaitAgent(t, k+1)
	}
	remove(t, 1, n1.name)
	remove(t, 2, n2.name)
	sp(t, 1, "network", "delete", "consul2")
}
