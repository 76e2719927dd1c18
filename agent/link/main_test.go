package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// insideEnv marks the test process that runs in a network namespace of its own.
const insideEnv = "LINK_TEST_INSIDE"

// TestMain runs the tests once more, in a new network namespace that plays the
// host: all threads of the process are in it, as an agent's are in the host's,
// and nothing of the machine's own network is touched.
func TestMain(m *testing.M) {
	if os.Getenv(insideEnv) != "" {
		os.Exit(m.Run())
	}
	runtime.LockOSThread() // Pdeathsig is tied to the thread that starts the process
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "these tests need root, for network namespaces:", err)
		os.Exit(1)
	}
}

// newLinks makes a Links that is closed with the test.
func newLinks(t testing.TB) *Links {
	t.Helper()
	l := New(slog.New(slog.DiscardHandler))
	t.Cleanup(l.Close)
	return l
}

// newNamespace makes a container's namespace; it ends with the test.
func newNamespace(t testing.TB) string {
	t.Helper()
	type result struct {
		file *os.File
		err  error
	}
	made := make(chan result)
	var unshare func()
	unshare = func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if unix.Gettid() == os.Getpid() {
			// The first thread cannot end, and is what /proc/self shows: keep
			// it out of the way until another one has done it.
			done := make(chan struct{})
			go func() { defer close(done); unshare() }()
			<-done
			runtime.UnlockOSThread()
			return
		}
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- result{err: err}
			return
		}
		file, err := os.Open(ownNamespace)
		made <- result{file: file, err: err}
	}
	go unshare()
	r := <-made
	if r.err != nil {
		t.Fatalf("make a namespace: %v", r.err)
	}
	t.Cleanup(func() { _ = r.file.Close() })
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), r.file.Fd())
}

// inside opens a netlink connection in a namespace.
func inside(t testing.TB, nsPath string) *conn {
	t.Helper()
	ns, err := openNamespace(nsPath)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	c, err := ns.dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// here opens a netlink connection on the host.
func here(t testing.TB) *conn { return inside(t, ownNamespace) }

// names lists the interfaces that a connection sees, without those that every
// new namespace has.
func names(t testing.TB, c *conn) []string {
	t.Helper()
	links, err := dump(c.LinkList)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, link := range links {
		if name := link.Attrs().Name; name != "lo" && link.Type() != "ipip" && link.Type() != "sit" && link.Type() != "gre" && link.Type() != "gretap" && link.Type() != "erspan" && !strings.HasPrefix(name, "ip6") {
			all = append(all, name)
		}
	}
	return all
}

// addDummy makes a link for a test and removes it after.
func addDummy(t testing.TB, c *conn, name string, addrs ...string) netlink.Link {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := c.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "x" + name, PeerTxQLen: -1}); err != nil {
		t.Fatalf("make %s: %v", name, err)
	}
	link, err := c.mustFind(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.LinkDel(link) })
	for _, end := range []string{"x" + name, name} {
		other, err := c.mustFind(end)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.LinkSetUp(other); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range addrs {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.AddrAdd(link, addr); err != nil {
			t.Fatalf("add %s: %v", a, err)
		}
	}
	return link
}

// veth describes the pair of an endpoint id for a test, deleted after it.
func veth(t testing.TB, l *Links, id string) Veth {
	t.Helper()
	v := Veth{Host: HostName(id), Peer: PeerName(id), MAC: "02:42:0a:06:00:02", MTU: 1450}
	t.Cleanup(func() {
		if err := l.DeleteVeth(context.Background(), v.Host); err != nil {
			t.Error(err)
		}
	})
	return v
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("never came: %s", what)
		}
	}
}
