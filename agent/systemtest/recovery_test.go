package systemtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// agreement says whether host k's endpoints on a network are the same for
// everyone: the agent, the store's list, the store's addresses, the bridge and
// the kernel.
func agreement(t testing.TB, k int, network, subnet string) error {
	t.Helper()
	st, err := agentOn(t, k).Status(within(t))
	if err != nil {
		return err
	}
	endpoints, err := agentOn(t, k).Endpoints(within(t))
	if err != nil {
		return err
	}
	var info, listed, owned, attached []string
	for _, e := range endpoints {
		info = append(info, e.ID+" "+e.IP.String())
		if e.Attached {
			attached = append(attached, e.Port)
		}
	}
	if value, ok := kv(t, "endpoints/")["endpoints/"+network+"/"+st.Host.ID]; ok {
		var list struct {
			Endpoints []struct {
				ID string
				IP netip.Addr
			}
		}
		if err := json.Unmarshal([]byte(value), &list); err != nil {
			t.Fatal(err)
		}
		for _, e := range list.Endpoints {
			listed = append(listed, e.ID+" "+e.IP.String())
		}
	}
	for ip, owner := range held(t, subnet) {
		if host, id, _ := strings.Cut(owner, "/"); host == st.Host.ID {
			owned = append(owned, id+" "+ip.String())
		}
	}
	ports := strings.Fields(must(t, k, "ovs-vsctl", "-t", "5", "--bare", "--columns=name", "find", "Port", "external_ids:socketplane_kind=endpoint"))
	var veths []string
	for _, line := range strings.Split(must(t, k, "ip", "-br", "link"), "\n") {
		if name, _, _ := strings.Cut(line, "@"); strings.HasPrefix(name, "spv") {
			veths = append(veths, name)
		}
	}
	for _, other := range []struct {
		name      string
		got, want []string
	}{
		{"the store's list", listed, info},
		{"the store's addresses", owned, info},
		{"the bridge's ports", ports, attached},
		{"the kernel's veths", veths, attached},
	} {
		slices.Sort(other.got)
		slices.Sort(other.want)
		if diff := cmp.Diff(other.want, other.got, cmpopts.EquateEmpty()); diff != "" {
			return fmt.Errorf("%s are not as info (-info +there):\n%s", other.name, diff)
		}
	}
	return nil
}

// untroubled says whether an error of a call may be: only that the agent was
// away, or was back and had not read the store yet.
func untroubled(err error) bool {
	return err == nil || errors.Is(err, api.ErrUnreachable) || api.CodeOf(err) == api.CodeUnavailable
}

// Promise: an agent that is killed at any moment, while containers and namespaces
// come and go, comes back to a host where the agent, the store, the switch and the
// kernel agree; a container that was removed while it was away is released.
func TestKilledAgentRecovers(t *testing.T) {
	const (
		kills   = 20
		workers = 4
		subnet  = "10.88.0.0/24"
	)
	makeNetwork(t, 1, "recover", subnet)
	healthy(t, 1)
	before := traces(t, 1)
	names := func(i int) (ns, container string) { return fmt.Sprintf("rec-%d", i), fmt.Sprintf("rec-c%d", i) }
	var all []string
	for i := range workers {
		ns, _ := names(i)
		all = append(all, ns)
	}
	namespaces(t, 1, all...)
	namespaces(t, 2, "rec-probe")
	client := agentOn(t, 1)
	t.Cleanup(func() { // whatever happened below
		sp(t, 1, "agent", "start")
		for i := range workers {
			ns, container := names(i)
			try(t, 1, "docker", "rm", "-f", container)
			try(t, 1, "socketplane", "disconnect", ns)
		}
		try(t, 2, "socketplane", "disconnect", "rec-probe")
	})

	stop := make(chan struct{})
	stopped := func() bool {
		select {
		case <-stop:
			return true
		default:
			return false
		}
	}
	ctx := context.WithoutCancel(t.Context()) // which ends before the clean-up
	var running sync.WaitGroup
	end := sync.OnceFunc(func() {
		close(stop)
		running.Wait()
	})
	t.Cleanup(end) // also when the test fails below; before what takes away what they made
	for i := range workers {
		ns, container := names(i)
		running.Go(func() { // leaves its namespace connected in the end, or not
			for n := 0; !stopped(); n++ {
				_, err := client.Attach(ctx, api.AttachRequest{ID: ns, Network: "recover", NetNS: "/run/netns/" + ns, Source: api.SourceConnect})
				if !untroubled(err) {
					t.Errorf("connect: %v", err)
				}
				if i%2 == 0 || !stopped() {
					if err := client.Release(ctx, ns); !untroubled(err) {
						t.Errorf("disconnect: %v", err)
					}
				}
			}
		})
		if i >= 2 {
			continue // two containers at a time are enough for two cores
		}
		running.Go(func() {
			for !stopped() {
				r := try(t, 1, "socketplane", "run", "-d", "--init", "--name", container, "-n", "recover", lab.Image, "sleep", "100000")
				if r.code != 0 && r.code != 125 {
					t.Errorf("run: exit status %d: %s", r.code, r.stderr)
				}
				if stopped() && r.code == 0 {
					return
				}
				if r := try(t, 1, "docker", "rm", "-f", container); r.code != 0 && !strings.Contains(r.stderr, "No such container") {
					t.Errorf("docker rm: exit status %d: %s", r.code, r.stderr)
				}
			}
		})
	}
	var lived []time.Duration
	for range kills {
		life := 50*time.Millisecond + rand.N(1200*time.Millisecond)
		lived = append(lived, life)
		<-time.After(life) // a random moment is the point
		killAgent(t, 1)
		sp(t, 1, "agent", "start")
	}
	end()
	t.Logf("killed after %v", lived)
	healthy(t, 1)
	eventuallyIn(t, 2*eventualWait, "all agree", func() error { return agreement(t, 1, "recover", subnet) })

	// What is there works: another host reaches it.
	if _, err := agentOn(t, 2).Attach(t.Context(), api.AttachRequest{ID: "rec-probe", Network: "recover", NetNS: "/run/netns/rec-probe", Source: api.SourceConnect}); err != nil {
		t.Fatal(err)
	}
	a := runContainer(t, 1, "recover", "rec-removed")
	b := runContainer(t, 1, "recover", "rec-kept")
	var ips []string
	endpoints, err := client.Endpoints(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range endpoints {
		if e.Attached {
			ips = append(ips, e.IP.String())
		}
	}
	t.Logf("%d endpoints are attached at the end", len(ips))
	eventually(t, "all answer", func() error {
		if ips = unanswered(t, 2, "rec-probe", ips); len(ips) > 0 {
			return fmt.Errorf("silent: %v", ips)
		}
		return nil
	})

	// Removed while the agent is away.
	killAgent(t, 1)
	must(t, 1, "docker", "rm", "-f", a.name)
	sp(t, 1, "agent", "start")
	eventually(t, "the removed container is released", func() error {
		_, err := client.Endpoint(t.Context(), a.name)
		if api.CodeOf(err) != api.CodeNotFound {
			return fmt.Errorf("it is still there: %v", err)
		}
		if who, taken := held(t, subnet)[netip.MustParseAddr(a.ip)]; taken {
			return fmt.Errorf("%s is still %s's", a.ip, who)
		}
		return nil
	})
	healthy(t, 1)
	if e, err := client.Endpoint(t.Context(), b.name); err != nil || e.IP.String() != b.ip || !e.Attached {
		t.Errorf("the container that stayed is %+v, %v", e, err)
	}
	eventually(t, "all agree", func() error { return agreement(t, 1, "recover", subnet) })

	for i := range workers {
		ns, container := names(i)
		try(t, 1, "docker", "rm", "-f", container)
		if err := client.Release(ctx, ns); err != nil {
			t.Errorf("disconnect: %v", err)
		}
	}
	must(t, 1, "docker", "rm", "-f", b.name)
	if err := agentOn(t, 2).Release(t.Context(), "rec-probe"); err != nil {
		t.Error(err)
	}
	leavesNothing(t, 1, before)
}
