package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// startSwitch runs an Open vSwitch of its own in the test's namespace and
// gives what runs ovs-vsctl on it.
func startSwitch(t *testing.T) func(args ...string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "link") // short: a socket's path holds 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	env := append(os.Environ(), "OVS_RUNDIR="+dir, "OVS_LOGDIR="+dir, "OVS_DBDIR="+dir, "OVS_SYSCONFDIR="+dir)
	db := "unix:" + filepath.Join(dir, "db.sock")
	start := func(name string, args ...string) {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Env = env
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	}
	run := func(name string, args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Env = env
		out, err := cmd.CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	conf := filepath.Join(dir, "conf.db")
	if out, err := run("ovsdb-tool", "create", conf, "/usr/share/openvswitch/vswitch.ovsschema"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	start("ovsdb-server", "--remote=p"+db, "--log-file="+filepath.Join(dir, "db.log"), conf)
	start("ovs-vswitchd", "--log-file="+filepath.Join(dir, "switch.log"), db)
	vsctl := func(args ...string) string {
		t.Helper()
		out, err := run("ovs-vsctl", append([]string{"--db=" + db, "-t", "15"}, args...)...)
		if err != nil {
			t.Fatalf("ovs-vsctl %v: %v: %s", args, err, out)
		}
		return out
	}
	// --retry: the server may still be starting.
	if out, err := run("ovs-vsctl", "--retry", "--db="+db, "-t", "15", "add-br", "br0", "--", "set", "Bridge", "br0", "datapath_type=netdev"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { _, _ = run("ovs-vsctl", "--db="+db, "-t", "15", "del-br", "br0") })
	return vsctl
}

// TestThroughSwitch sends TCP through a real switch in user space: between two
// containers, and from a container to the host by the gateway port.
func TestThroughSwitch(t *testing.T) {
	l, c := newLinks(t), here(t)
	vsctl := startSwitch(t)
	addDummy(t, c, "under0", "198.18.0.1/24")
	gateway := GatewayName(t.Name())
	vsctl("add-port", "br0", gateway, "--", "set", "Interface", gateway, "type=internal")
	g := Gateway{
		Name: gateway, MAC: "02:42:0a:06:00:01", Addr: netip.MustParsePrefix("10.6.0.1/16"),
		MTU: 1450, Source: netip.MustParseAddr("198.18.0.1"), Userspace: true,
	}
	if err := l.EnsureGateway(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	var spaces []string
	for i := range 2 {
		ns := newNamespace(t)
		v := veth(t, l, fmt.Sprint(t.Name(), i))
		v.Userspace, v.NetNS, v.IfName = true, ns, "eth0"
		v.MAC = fmt.Sprintf("02:42:0a:06:00:%02x", i+2)
		cfg := config()
		cfg.MAC, cfg.Addr = v.MAC, netip.MustParsePrefix(fmt.Sprintf("10.6.0.%d/16", i+2))
		if err := errors.Join(l.EnsureVeth(t.Context(), v), l.Configure(t.Context(), v.Peer, ns, cfg)); err != nil {
			t.Fatal(err)
		}
		vsctl("add-port", "br0", v.Host)
		spaces = append(spaces, ns)
	}
	// A switch may set the MTU of its internal ports again; converging mends it.
	if err := l.EnsureGateway(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	for _, p := range []struct{ name, server, addr, client string }{
		{"container to container", spaces[0], "10.6.0.2", spaces[1]},
		{"container to gateway", ownNamespace, "10.6.0.1", spaces[1]},
		{"host to container", spaces[0], "10.6.0.2", ownNamespace},
	} {
		if got := fetch(t, p.server, p.addr, p.client); got != 100_000 {
			t.Errorf("%s: %d of 100000 bytes", p.name, got)
		}
	}
	if s, err := l.Inspect(gateway); err != nil || s.MTU != 1450 || s.MAC != g.MAC {
		t.Errorf("gateway port %+v, %v", s, err)
	}
}

// fetch has a server in one namespace send 100,000 bytes to a client in
// another, and tells how many arrived.
func fetch(t *testing.T, server, addr, client string) int64 {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	var listener net.Listener
	var conn net.Conn
	if err := within(server, func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(addr, "0"))
		return err
	}); err != nil {
		t.Fatalf("listen: %v", err)
	}
	defer listener.Close()
	var serving sync.WaitGroup
	serving.Go(func() {
		peer, err := listener.Accept()
		if err != nil {
			return
		}
		defer peer.Close()
		_ = peer.SetDeadline(deadline)
		_, _ = peer.Write(make([]byte, 100_000))
	})
	defer serving.Wait()
	defer listener.Close() // before the wait: nobody may have come
	if err := within(client, func() (err error) {
		conn, err = (&net.Dialer{Deadline: deadline}).Dial("tcp", listener.Addr().String())
		return err
	}); err != nil {
		t.Logf("dial: %v", err)
		return 0
	}
	defer conn.Close()
	_ = conn.SetDeadline(deadline)
	n, err := io.Copy(io.Discard, conn)
	if err != nil {
		t.Logf("read: %v", err)
	}
	return n
}

// within runs f on a thread in a namespace; the sockets it opens stay there.
func within(nsPath string, f func() error) error {
	ns, err := openNamespace(nsPath)
	if err != nil {
		return err
	}
	defer ns.Close()
	own, err := openNamespace(ownNamespace)
	if err != nil {
		return err
	}
	defer own.Close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Setns(ns.fd(), unix.CLONE_NEWNET); err != nil {
		return err
	}
	return errors.Join(f(), unix.Setns(own.fd(), unix.CLONE_NEWNET))
}
