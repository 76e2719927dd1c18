package ovs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/socketplane/socketplane/ovs/ovstest"
)

// open starts an instance and a switch on it whose Run ends with the test.
func open(t testing.TB) (*Switch, *ovstest.Instance) {
	t.Helper()
	i := ovstest.Start(t)
	return openOn(t, i), i
}

// openOn changes the switch before it runs.
func openOn(t testing.TB, i *ovstest.Instance, changes ...func(*Switch)) *Switch {
	t.Helper()
	s, err := Open(t.Context(), Config{RunDir: i.Dir, Datapath: DatapathNetdev})
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range changes {
		change(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		s.Close()
	})
	return s
}

// awaitChanged fails the test when no notice comes.
func awaitChanged(t *testing.T, s *Switch) {
	t.Helper()
	select {
	case <-s.Changed():
	case <-time.After(20 * time.Second):
		t.Fatal("no notice of a change came")
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
		<-tick.C
	}
}

func TestOpenWithoutSwitch(t *testing.T) {
	_, err := Open(t.Context(), Config{RunDir: t.TempDir()})
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "systemctl start openvswitch-switch") {
		t.Errorf("got %v", err)
	}
}

func TestOpenWithoutVSwitchd(t *testing.T) {
	i := ovstest.Start(t)
	i.KillSwitch(t)
	// The time is for all of Open: where the machine is so busy that it ends on the
	// way to the wait for ovs-vswitchd, there is more the next time.
	for wait := 300 * time.Millisecond; ; wait *= 2 {
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		_, err := Open(ctx, Config{RunDir: i.Dir})
		cancel()
		if !errors.Is(err, ErrUnavailable) {
			t.Fatalf("got %v", err)
		}
		if strings.Contains(err.Error(), "ovs-vswitchd did not make bridge") {
			return
		}
		if wait > openTimeout { // which Open does not exceed
			t.Fatalf("in %s: %v", wait, err)
		}
		t.Logf("in %s: %v", wait, err)
	}
}

func TestBadConfig(t *testing.T) {
	for _, cfg := range []Config{{Bridge: "a/b"}, {Bridge: "sixteen-bytes-xx"}, {Datapath: "dpdk"}} {
		if _, err := Open(t.Context(), cfg); err == nil || errors.Is(err, ErrUnavailable) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

func TestDatapath(t *testing.T) {
	both := []string{DatapathNetdev, DatapathSystem}
	yes, no := func() bool { return true }, func() bool { return false }
	for _, c := range []struct {
		offered []string
		kernel  func() bool
		want    string
	}{{both, yes, DatapathSystem}, {both, no, DatapathNetdev}, {both[:1], yes, DatapathNetdev}, {nil, yes, DatapathNetdev}} {
		if got := chooseDatapath(c.offered, c.kernel); got != c.want {
			t.Errorf("%v: got %s", c.offered, got)
		}
	}
	if !genericFamilyExists("nlctrl") || genericFamilyExists("no such family") {
		t.Error("the kernel's generic netlink families are misread")
	}
}

func TestOpenTwice(t *testing.T) {
	s, i := open(t)
	show := func() string {
		return vsctl(t, i, "--columns=fail_mode,datapath_type,controller,stp_enable,external_ids,name", "list", "Bridge")
	}
	first := show()
	for _, want := range []string{"secure", "netdev", "socketplane=bridge", "docker0-ovs"} {
		if !strings.Contains(first, want) {
			t.Errorf("bridge lacks %s:\n%s", want, first)
		}
	}
	if got := s.Bridge(); got != DefaultBridge {
		t.Errorf("bridge %q", got)
	}
	openOn(t, i)
	if diff := cmp.Diff(first, show()); diff != "" {
		t.Errorf("opening again changed the bridge:\n%s", diff)
	}
}

func vsctl(t testing.TB, i *ovstest.Instance, args ...string) string {
	t.Helper()
	return i.Run(t, "ovs-vsctl", append([]string{"--db=" + i.Socket(), "-t", "10"}, args...)...)
}

// current is the session that s has now.
func current(s *Switch) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.session
}

// bg is for calls in what has no context of its own.
var bg = context.Background()

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func mac(n int) string             { return fmt.Sprintf("02:42:0a:06:00:%02x", n) }

// dump lists the switch's flows, without their counters.
func dump(t testing.TB, i *ovstest.Instance) []string {
	t.Helper()
	out := i.Run(t, "ovs-ofctl", "-O", "OpenFlow14", "--no-stats", "--no-names", "dump-flows", "unix:"+i.Dir+"/"+DefaultBridge+".mgmt")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	slices.Sort(lines)
	return lines
}

func equalFlows(t testing.TB, want, got []string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("flows (-want +got):\n%s", diff)
	}
}

// lockedBuffer is a buffer that a process fills while a test reads.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) Bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.b.Bytes())
}

func (l *lockedBuffer) String() string { return string(l.Bytes()) }
