package systemtest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/socketplane/socketplane/agent/api"
)

// What this file has speaks to a host's programs from within this process: a
// round of a race must not cost the start of a program.

// insideHost is the machine's path of a path on host k.
func insideHost(t testing.TB, k int, path string) string {
	t.Helper()
	pid := cluster.Host(k).Pid()
	if pid == 0 {
		t.Fatalf("h%d is off", k)
	}
	return fmt.Sprintf("/proc/%d/root%s", pid, path)
}

// agentOn is a client of host k's agent.
func agentOn(t testing.TB, k int) *api.Client {
	t.Helper()
	return api.NewClient(insideHost(t, k, "/run/socketplane/socketplane.sock"))
}

// overSocket is an HTTP client whose every connection goes to one unix socket
// of host k.
func overSocket(t testing.TB, k int, socket string) *http.Client {
	t.Helper()
	path := insideHost(t, k, socket)
	return &http.Client{Timeout: testTimeout, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
	}}
}

// consuls keeps a connection to each host's Consul.
var consuls struct {
	sync.Mutex
	byHost map[int]*http.Client
}

// consulOn is an HTTP client of host k's Consul, which listens on loopback only.
func consulOn(k int) *http.Client {
	consuls.Lock()
	defer consuls.Unlock()
	if c := consuls.byHost[k]; c != nil {
		return c
	}
	if consuls.byHost == nil {
		consuls.byHost = map[int]*http.Client{}
	}
	c := &http.Client{Timeout: testTimeout, Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return dialInside(ctx, k, network, addr)
		},
	}}
	consuls.byHost[k] = c
	return c
}

// dialInside dials from host k's network namespace. A socket stays in the
// namespace in which it was made; the thread that went there is thrown away.
func dialInside(ctx context.Context, k int, network, addr string) (net.Conn, error) {
	type answer struct {
		conn net.Conn
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		fd, err := unix.Open(cluster.Host(k).Namespace(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- answer{err: err}
			return
		}
		err = unix.Setns(fd, unix.CLONE_NEWNET)
		_ = unix.Close(fd)
		if err != nil {
			done <- answer{err: err}
			return
		}
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, addr)
		done <- answer{conn, err}
	}()
	a := <-done
	return a.conn, a.err
}

// kv reads every key of ours that begins with prefix, with its value, from host
// 1's Consul. The prefix does not repeat the one of the layout. A Consul that
// has just lost its leader is given time to find one.
func kv(t testing.TB, prefix string) map[string]string {
	t.Helper()
	var all map[string]string
	eventually(t, "read the store", func() (err error) {
		all, err = readKV(prefix)
		return err
	})
	return all
}

func readKV(prefix string) (map[string]string, error) {
	const layout = "socketplane/v1/"
	resp, err := consulOn(1).Get("http://127.0.0.1:8500/v1/kv/" + layout + prefix + "?recurse&consistent")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	all := map[string]string{}
	if resp.StatusCode == http.StatusNotFound {
		return all, nil
	}
	var entries []struct {
		Key   string
		Value []byte
	}
	if err := json.NewDecoder(resp.Body).Decode(&entries); err != nil {
		return nil, fmt.Errorf("HTTP status %d: %w", resp.StatusCode, err)
	}
	for _, e := range entries {
		all[strings.TrimPrefix(e.Key, layout)] = string(e.Value)
	}
	return all, nil
}

// held reads who has which address of a subnet, from the store.
func held(t testing.TB, subnet string) map[netip.Addr]string {
	t.Helper()
	all := map[netip.Addr]string{}
	for key, value := range kv(t, "ipam/"+strings.ReplaceAll(subnet, "/", "-")+"/") {
		var block struct {
			Owners map[netip.Addr]string `json:"owners"`
		}
		if err := json.Unmarshal([]byte(value), &block); err != nil {
			t.Fatalf("block %s: %v", key, err)
		}
		for addr, owner := range block.Owners {
			all[addr] = owner
		}
	}
	return all
}

// traces is all that SocketPlane has on host k and in the store, values too, but
// for what says that time passes. It is the footprint that shows one address or
// one container too many.
func traces(t testing.TB, k int) []string {
	t.Helper()
	var all []string
	for key, value := range kv(t, "") {
		// A host's record tells routes that come and go with Docker's; the
		// generation counts all networks that ever were.
		if !strings.HasPrefix(key, "hosts/") && key != "network-generation" {
			all = append(all, "key "+key+" "+value)
		}
	}
	resp, err := overSocket(t, k, "/run/docker.sock").Get("http://docker/containers/json?all=1")
	if err != nil {
		t.Fatal("list the containers: ", err)
	}
	defer resp.Body.Close()
	var containers []struct{ Names []string }
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal("list the containers: ", err)
	}
	decode(t, string(data), &containers)
	for _, c := range containers {
		all = append(all, "container "+strings.Join(c.Names, " "))
	}
	// Of the filter what names a network: the chains themselves stay. Each life of an
	// agent has a MAC address of its own for answers to its probes, and the switch
	// remembers for 3 s what was asked for in vain (cookie 0x736f636b02...).
	const script = `ovs-vsctl -t 5 list-ports docker0-ovs | sed 's/^/port /'
		ip -br link | sed 's/[@ ].*//; s/^/link /'
		ip route | sed 's/^/route /'
		iptables-save | grep -E 'spg[0-9a-f]|-[sd] 10[.]' | sed 's/^/filter /'
		ovs-ofctl -O OpenFlow13 --no-stats dump-flows docker0-ovs | sed -E '/OFPST_FLOW|cookie=0x736f636b02/d
			s/dl_dst=[0-9a-f:]+,dl_type=0x88b5/dl_dst=PROBER,dl_type=0x88b5/; s/^[[:space:]]*/flow /'`
	for l := range strings.Lines(must(t, k, "sh", "-c", script)) {
		all = append(all, strings.TrimSpace(l))
	}
	slices.Sort(all)
	return all
}

// leavesNothing waits until host k and the store are as they were before, but
// for lines that hold one of the allowed texts.
func leavesNothing(t testing.TB, k int, before []string, allowed ...string) {
	t.Helper()
	// A subnet that Docker asked for in vain stays reserved for up to a minute, and half
	// a minute more until that is looked at.
	eventuallyIn(t, 2*time.Minute, fmt.Sprintf("h%d is as before", k), func() error { return differs(before, traces(t, k), allowed...) })
}

// within gives a context that ends with the test, or with the time that one
// command of a test may take.
func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

// service starts, stops or kills a program of host k. It runs again at the end
// of the test, also of one that fails.
func service(t testing.TB, k int, verb, name string) {
	t.Helper()
	if verb != "start" {
		t.Cleanup(func() { service(t, k, "start", name) }) // does nothing if it runs
	}
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	if err := cluster.Host(k).Service(ctx, verb, name); err != nil {
		t.Fatalf("h%d: %v", k, err)
	}
}

// healthy waits until host k's agent is ready and has no problem.
func healthy(t testing.TB, k int) {
	t.Helper()
	client := agentOn(t, k)
	deadline := time.Now().Add(40 * time.Second)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		st, err := client.Status(context.Background())
		if err == nil && st.Ready && len(st.Problems) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("h%d is not well: %v %q", k, err, st.Problems)
		}
		<-tick.C
	}
}

// named waits until status of host k names one problem with all the parts.
func named(t testing.TB, k int, parts ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("h%d names %q", k, parts), func() error {
		st, err := agentOn(t, k).Status(within(t))
		if err != nil {
			return err
		}
		for _, p := range st.Problems {
			found := true
			for _, part := range parts {
				found = found && strings.Contains(p, part)
			}
			if found {
				return nil
			}
		}
		return fmt.Errorf("it names %q", st.Problems)
	})
}
