package systemtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// Promise: the loss of Consul, the leader of its servers, changes nothing for
// packets and running containers; what needs it fails with one line; when it is
// back, all works.
func TestConsulRestart(t *testing.T) {
	here := consulLeader(t)
	there := here%3 + 1
	makeNetwork(t, there, "consul", "10.151.0.0/24")
	a, b := runContainer(t, here, "consul", "co-a"), runContainer(t, there, "consul", "co-b")
	goes, restarts := runContainer(t, here, "consul", "co-goes"), runContainer(t, here, "consul", "co-restarts")
	eventually(t, "reach each other", func() error { return a.pings(t, b.ip) })
	pinging := func() []*prober {
		return []*prober{
			startProbe(t, "to the other host", a.namespace(t), b.ip),
			startProbe(t, "to the outside", a.namespace(t), "203.0.113.1"),
		}
	}
	probes := pinging()
	service(t, here, "kill", "consul")

	start := time.Now()
	r := try(t, here, "socketplane", "network", "create", "consul2", "10.152.0.0/24")
	sentence(t, "network create", r, 1)
	t.Logf("it took %s", time.Since(start).Round(time.Millisecond))
	if !strings.Contains(strings.ToLower(r.stderr), "consul") {
		t.Errorf("the line does not name Consul: %s", r.stderr)
	}
	probes[0].awaitSent(t, 100)
	lostNothing(t, 100, probes...)
	// A container that held its address before goes on without the store.
	must(t, here, "docker", "restart", "-t", "0", restarts.name)
	eventually(t, "a restarted container is reached", func() error { return a.pings(t, restarts.ip) })
	must(t, here, "docker", "rm", "-f", goes.name)
	sp(t, here, "info")
	// The others go on: two of three servers have a leader.
	far := func() container {
		eventually(t, "the others have a leader", func() error {
			if r := try(t, there, "socketplane", "network", "list"); r.code != 0 {
				return fmt.Errorf("%s", r.stderr)
			}
			return nil
		})
		return runContainer(t, there, "consul", "co-far")
	}()
	probes = pinging()
	service(t, here, "start", "consul")
	eventually(t, "network create works again", func() error {
		if r := try(t, here, "socketplane", "network", "create", "consul2", "10.152.0.0/24"); r.code != 0 {
			return fmt.Errorf("%s", r.stderr)
		}
		return nil
	})
	t.Cleanup(func() { try(t, here, "socketplane", "network", "delete", "consul2") })
	probes[0].awaitSent(t, 100)
	lostNothing(t, 100, probes...)
	eventually(t, "what came meanwhile is reached", func() error { return a.pings(t, far.ip) })
	eventually(t, "what was removed meanwhile goes", func() error {
		r := try(t, there, "consul", "kv", "get", "-recurse", "socketplane/v1/endpoints/consul/")
		if r.code != 0 || strings.Contains(r.stdout, `"`+goes.ip+`"`) {
			return fmt.Errorf("%s is still published: %s", goes.ip, r.stderr)
		}
		return nil
	})
	n1, n2 := runContainer(t, here, "consul2", "co-n1"), runContainer(t, there, "consul2", "co-n2")
	eventually(t, "the new network works", func() error { return n1.pings(t, n2.ip) })
	for k := range 3 {
		awaitAgent(t, k+1)
	}
	remove(t, here, n1.name)
	remove(t, there, n2.name)
	deleteNetwork(t, here, "consul2")
}

// consulLeader is the number of the host whose Consul leads the servers.
func consulLeader(t testing.TB) int {
	t.Helper()
	var leader string
	eventually(t, "Consul has a leader", func() error {
		resp, err := consulOn(1).Get("http://127.0.0.1:8500/v1/status/leader")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(&leader); err != nil {
			return err
		}
		if leader == "" {
			return errors.New("nobody leads")
		}
		return nil
	})
	for _, h := range cluster.Hosts() {
		if strings.HasPrefix(leader, lab.ControlAddr(h.Number).String()+":") {
			return h.Number
		}
	}
	t.Fatalf("%q leads", leader)
	return 0
}
