package cluster

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/state/consultest"
)

const clusterID = "33333333-3333-4333-8333-333333333333"

// loud is a log that several write and a test reads.
type loud struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *loud) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *loud) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func options(t *testing.T) ConsulOptions {
	t.Helper()
	binary, err := consultest.Binary()
	if err != nil {
		t.Fatal(err)
	}
	ports, err := consultest.FreePorts(2)
	if err != nil {
		t.Fatal(err)
	}
	return ConsulOptions{
		Binary: binary, Dir: filepath.Join(t.TempDir(), "consul"), HostID: id, HostName: "h_1.example", Bind: netip.MustParseAddr("127.0.0.1"),
		Cluster: clusterID, Token: NewToken(), Server: true, First: true,
		Ports: Ports{Server: ports[0], Gossip: ports[1]},
	}
}

// A Consul that dies comes again; one that runs as it should is taken over by the
// next agent, one that does not is replaced; at the end it stops. Who asks it
// with another token hears nothing.
func TestConsulIsKept(t *testing.T) {
	opts := options(t)
	log := &loud{}
	logger := slog.New(slog.NewTextHandler(log, nil))
	pidFile := filepath.Join(opts.Dir, "consul.pid")
	pid := func() string { data, _ := os.ReadFile(pidFile); return string(data) }
	leader := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := newConsulClient(opts.socket()).awaitLeader(ctx); err != nil {
			t.Fatalf("%v\n%s", err, log)
		}
	}

	// An agent that was killed has left this one.
	left, adopted, err := NewConsul(opts, logger).begin()
	if err != nil || adopted {
		t.Fatal(adopted, err)
	}
	t.Cleanup(func() { stopLeftover(opts.Dir) })
	leader()
	first := pid()

	ctx, cancel := context.WithCancel(t.Context())
	opts.Join = []netip.Addr{netip.MustParseAddr("127.0.0.2")} // no reason to restart it
	done := make(chan error, 1)
	go func() { done <- NewConsul(opts, logger).Run(ctx) }()
	untilLog(t, log, "adopted=true")
	if pid() != first {
		t.Errorf("pid %s, it was %s", pid(), first)
	}
	if fi, err := os.Stat(opts.configPath()); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}

	found, err := probe(t.Context(), opts.Bind, opts.Bind, opts.Ports.Gossip, opts.Token)
	if err != nil || found.Cluster != clusterID || found.Nodes[id] != (Node{"h-1-example-11111111", opts.Bind}) || len(found.Hosts) != 1 {
		t.Errorf("%+v, %v", found, err)
	}
	if _, err := probe(t.Context(), opts.Bind, opts.Bind, opts.Ports.Gossip, NewToken()); !errors.Is(err, ErrRefused) {
		t.Errorf("another token: %v", err)
	}
	if _, err := probe(t.Context(), opts.Bind, opts.Bind, 1, opts.Token); !errors.Is(err, ErrSilent) {
		t.Errorf("another port: %v", err)
	}
	if members, err := newConsulClient(opts.socket()).members(t.Context()); err != nil || len(members) != 1 {
		t.Errorf("who asked stays: %v, %v", members, err)
	}

	if err := left.proc.Kill(); err != nil {
		t.Fatal(err)
	}
	untilLog(t, log, "starting it again")
	untilLog(t, log, "adopted=false")
	leader()
	if pid() == first {
		t.Error("the pid file names the dead")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if p := runningConsul(opts.configPath(), pidFile); p != nil {
		t.Error("it runs on")
	}
	for _, secret := range []string{opts.Token.Secret(), "encrypt"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log says %q", secret)
		}
	}
	if !strings.Contains(log.String(), "consul=agent") {
		t.Errorf("nothing of Consul's log is in\n%s", log)
	}
}

func untilLog(t *testing.T, log *loud, text string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); !strings.Contains(log.String(), text); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("never said: %s\n%s", text, log)
		}
	}
}

// A pid file that names another process is no Consul of ours.
func TestForeignPID(t *testing.T) {
	dir := t.TempDir()
	pidFile := filepath.Join(dir, "consul.pid")
	for _, text := range []string{"", "x", "0", "1", "-5", "999999999999999999999", "4194304", "\n"} {
		if err := os.WriteFile(pidFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if p := runningConsul("/none", pidFile); p != nil {
			t.Errorf("%q is %d", text, p.proc.Pid)
		}
	}
	self := []byte("consul\x00agent\x00-config-file=/a\x00")
	if !isConsul(self, "/a") || isConsul(self, "/b") || isConsul([]byte("vi\x00-config-file=/a\x00"), "/a") || isConsul(nil, "/a") {
		t.Error("mistaken")
	}
}

// What Consul writes is bounded, and never more than lines.
func TestConsulLog(t *testing.T) {
	log := &loud{}
	l := newConsulLog(filepath.Join(t.TempDir(), "log"), slog.New(slog.NewTextHandler(log, nil)))
	l.take([]byte(`{"@level":"error","@message":"no","@module":"agent.raft","peer":"h2"}` + "\n==> plain\n" + `{"@level":"in`))
	l.take([]byte(`fo","@message":"` + strings.Repeat("x", 5000) + "\"}\n"))
	l.take([]byte(`{"@level":"error","@message":"memberlist: Failed push/pull merge: Member 'probe-1' part of wrong datacenter 'socketplane-probe' from=192.0.2.1:1"}` + "\n"))
	for range 100 {
		l.take([]byte(`{"@level":"warn","@message":"again"}` + "\n"))
	}
	l.take(bytes.Repeat([]byte("y"), maxLogLine+10))
	got := log.String()
	for _, want := range []string{`level=ERROR msg=no consul=agent.raft peer=h2`, `msg="==> plain"`, strings.Repeat("x", maxMessage) + "..."} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	if strings.Contains(got, "probe-1") {
		t.Errorf("a question is an error in\n%s", got)
	}
	if strings.Count(got, "msg=again") != 1 || strings.Contains(got, strings.Repeat("x", maxMessage+1)) || len(l.rest) > 0 {
		t.Errorf("%s", got)
	}
}
