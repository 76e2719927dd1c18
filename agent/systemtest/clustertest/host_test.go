package clustertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

const (
	commandTimeout = 100 * time.Second
	eventualWait   = 40 * time.Second
	followWait     = 20 * time.Second // for the others to see what a host did to its place; of one that dies they hear after 30 s and more
)

// result is what a command left behind.
type result struct {
	stdout, stderr string
	code           int
}

// try runs a command on host k, with stdin.
func try(t testing.TB, k int, stdin string, argv ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := hosts.Host(k).Command(ctx, argv...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	r := result{stdout: stdout.String(), stderr: stderr.String()}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		r.code = exit.ExitCode()
	} else if err != nil {
		t.Fatalf("h%d: %q: %v", k, argv, err)
	}
	return r
}

// must runs a command on host k that has to succeed.
func must(t testing.TB, k int, argv ...string) string {
	t.Helper()
	r := try(t, k, "", argv...)
	if r.code != 0 {
		t.Fatalf("h%d: %q: exit status %d\n%s%s", k, argv, r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// sp is `socketplane ARGS` on host k, which has to succeed.
func sp(t testing.TB, k int, args ...string) string {
	t.Helper()
	return must(t, k, append([]string{"socketplane"}, args...)...)
}

// join makes host k join with a token, and gives what came of it.
func join(t testing.TB, k int, token string, addrs ...string) result {
	t.Helper()
	return try(t, k, token, append([]string{"socketplane", "cluster", "join", "--token-file", "-"}, addrs...)...)
}

// refused says that a command failed with a sentence that has these words.
func refused(t testing.TB, r result, words ...string) {
	t.Helper()
	line := strings.TrimSuffix(r.stderr, "\n")
	if r.code == 0 || strings.Contains(line, "\n") || line == "" {
		t.Errorf("exit status %d, %q", r.code, r.stderr)
	}
	for _, w := range words {
		if !strings.Contains(line, w) {
			t.Errorf("%q does not speak of %q", line, w)
		}
	}
}

// eventually waits until f is satisfied; f says what is wrong still.
func eventually(t testing.TB, wait time.Duration, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(wait)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after %s: %v", what, wait, err)
		}
		<-tick.C
	}
}

// begin starts host k's agent, without Docker, and waits until it is ready.
func begin(t testing.TB, k int, settings string) {
	t.Helper()
	start(t, k, settings)
	awaitReady(t, k)
}

func start(t testing.TB, k int, settings string) {
	t.Helper()
	startAs(t, k, fmt.Sprintf("h%d", k), settings)
}

// startAs starts host k's agent under a name.
func startAs(t testing.TB, k int, name, settings string) {
	t.Helper()
	text := fmt.Sprintf("[host]\nname = %q\n[docker]\nenabled = false\n%s", name, settings)
	if r := try(t, k, text, "tee", "/etc/socketplane/socketplane.toml"); r.code != 0 {
		t.Fatal(r.stderr)
	}
	sp(t, k, "agent", "start")
}

// status is what `agent status -o json` shows.
type status struct {
	Ready    bool
	Problems []string
	Host     struct{ ID, VTEP string }
	Peers    []peer
}

type peer struct{ ID, Name, VTEP, State, Tunnel string }

func statusOf(t testing.TB, k int) (status, error) {
	t.Helper()
	var s status
	r := try(t, k, "", "socketplane", "agent", "status", "-o", "json")
	if r.code != 0 {
		return s, errors.New(r.stderr)
	}
	return s, json.Unmarshal([]byte(r.stdout), &s)
}

func awaitReady(t testing.TB, k int) {
	t.Helper()
	eventually(t, eventualWait, fmt.Sprintf("h%d is ready", k), func() error {
		s, err := statusOf(t, k)
		if err == nil && !s.Ready {
			err = fmt.Errorf("not yet: %q", s.Problems)
		}
		return err
	})
}

// awaitPeers waits until host k has tunnels to exactly these addresses.
func awaitPeers(t testing.TB, k int, vteps ...string) {
	t.Helper()
	awaitPeersIn(t, 90*time.Second, k, vteps...)
}

func awaitPeersIn(t testing.TB, wait time.Duration, k int, vteps ...string) {
	t.Helper()
	began := time.Now()
	defer func() {
		t.Logf("h%d has tunnels to %q after %s", k, vteps, time.Since(began).Round(100*time.Millisecond))
	}()
	eventually(t, wait, fmt.Sprintf("h%d has tunnels to %q", k, vteps), func() error {
		s, err := statusOf(t, k)
		if err != nil {
			return err
		}
		have := map[string]bool{}
		for _, p := range s.Peers {
			have[p.VTEP] = p.Tunnel != ""
		}
		for _, v := range vteps {
			if !have[v] {
				return fmt.Errorf("%+v", s.Peers)
			}
		}
		if len(s.Peers) != len(vteps) {
			return fmt.Errorf("%+v", s.Peers)
		}
		return nil
	})
}

// awaitNoTunnel waits until none of the hosts ks has a tunnel to an address, as
// after a leave from there.
func awaitNoTunnel(t testing.TB, vtep string, ks ...int) {
	t.Helper()
	began := time.Now()
	eventually(t, followWait, "no tunnel leads to "+vtep, func() error {
		for _, k := range ks {
			if out := must(t, k, "ovs-vsctl", "-t", "5", "--bare", "--columns=name", "find", "Interface", "type=vxlan", "options:remote_ip="+vtep); out != "" {
				return fmt.Errorf("h%d has %s", k, out)
			}
		}
		return nil
	})
	t.Logf("no tunnel of hosts %v leads to %s after %s", ks, vtep, time.Since(began).Round(100*time.Millisecond))
}

// member is a line of `cluster members -o json`.
type member struct {
	Name, Address, Role, State string
	Self                       bool
}

func members(t testing.TB, k int) ([]member, error) {
	t.Helper()
	r := try(t, k, "", "socketplane", "cluster", "members", "-o", "json")
	if r.code != 0 {
		return nil, errors.New(r.stderr)
	}
	var all []member
	return all, json.Unmarshal([]byte(r.stdout), &all)
}

// awaitServers waits until the cluster of host k has n hosts, of which servers
// carry it.
func awaitServers(t testing.TB, k, n, servers int) {
	t.Helper()
	eventually(t, 60*time.Second, fmt.Sprintf("%d servers of %d hosts", servers, n), func() error {
		all, err := members(t, k)
		if err != nil {
			return err
		}
		count := 0
		for _, m := range all {
			if m.Role == "server" {
				count++
			}
		}
		if len(all) != n || count != servers {
			return fmt.Errorf("%+v", all)
		}
		return nil
	})
}

// end is a namespace on a host, connected to a network.
type end struct {
	host              int
	network, name, ip string
}

func connect(t testing.TB, k int, network, name string) end {
	t.Helper()
	must(t, k, "ip", "netns", "add", name)
	var e struct{ IP string }
	out := sp(t, k, "connect", "-n", network, "--netns", "/run/netns/"+name, "--id", name, "-o", "json")
	if err := json.Unmarshal([]byte(out), &e); err != nil {
		t.Fatal(err)
	}
	return end{host: k, network: network, name: name, ip: e.IP}
}

func (e end) disconnect(t testing.TB) {
	t.Helper()
	sp(t, e.host, "disconnect", e.name)
	must(t, e.host, "ip", "netns", "del", e.name)
}

func (e end) pings(t testing.TB, ip string) error {
	t.Helper()
	if r := try(t, e.host, "", "ip", "netns", "exec", e.name, "ping", "-c", "1", "-W", "1", ip); r.code != 0 {
		return errors.New(r.stdout + r.stderr)
	}
	return nil
}
