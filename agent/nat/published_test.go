package nat

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// within runs f on a thread of a namespace that `ip netns` made; empty: the host.
func within(t *testing.T, ns string, f func() error) error {
	t.Helper()
	if ns == "" {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		file, err := os.Open("/run/netns/" + ns)
		if err == nil {
			err = unix.Setns(int(file.Fd()), unix.CLONE_NEWNET)
			_ = file.Close() // only read
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// serves answers every connection in a namespace with the address it came from.
func serves(t *testing.T, ns, addr string) {
	t.Helper()
	err := within(t, ns, func() error {
		l, err := net.Listen("tcp4", addr)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprint(conn, conn.RemoteAddr().String())
				_ = conn.Close()
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// sees connects from a namespace and gives as whom it was seen; empty: not at all.
// An answer that is wanted has the time that a busy machine needs.
func sees(t *testing.T, ns, addr string, wanted bool) string {
	t.Helper()
	wait := time.Second
	if wanted {
		wait = 10 * time.Second
	}
	var saw string
	_ = within(t, ns, func() error { // a failure is an answer, too
		conn, err := net.DialTimeout("tcp4", addr, wait)
		if err != nil {
			return err
		}
		defer conn.Close()
		buf := make([]byte, 64)
		if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
			return err
		}
		n, err := conn.Read(buf)
		saw, _, _ = strings.Cut(string(buf[:n]), ":")
		return err
	})
	return saw
}

// TestPublished shows who reaches published ports, and what each is seen as, on
// hosts that forward and hosts that do not.
func TestPublished(t *testing.T) {
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			n := newNAT(t, backend)
			web, db, outside, _ := world(t)
			do(t, "ip", "link", "set", "lo", "up")
			for _, ns := range []string{web, db, outside} {
				do(t, "ip", "-n", ns, "link", "set", "lo", "up")
			}
			for _, port := range []string{"spgtest0", "spgtest1"} { // as package link sets them
				do(t, "sysctl", "-qw", "net.ipv4.conf."+port+".route_localnet=1", "net.ipv4.conf."+port+".rp_filter=1")
			}
			do(t, "iptables-"+backend, "-w", "-P", "FORWARD", "DROP")
			r := rules()
			r.Published = []Published{
				{Port: tcp("", 8080), To: netip.MustParseAddrPort("10.6.0.2:80")},
				{Port: tcp("127.0.0.1", 8081), To: netip.MustParseAddrPort("10.6.0.2:80")},
				{Port: tcp("203.0.113.2", 8082), To: netip.MustParseAddrPort("10.7.0.2:80")},
			}
			serves(t, web, ":80")
			serves(t, db, ":80")
			serves(t, "", "127.0.0.1:9000")
			if err := n.Set(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			// A neighbour that sends packets for 127.0.0.1, and a container that does.
			for _, forger := range []string{outside, web} {
				for _, cmd := range []string{"ip route del local 127.0.0.0/8 table local", "ip addr del 127.0.0.1/8 dev lo", "sysctl -qw net.ipv4.conf.eth0.route_localnet=1"} {
					do(t, append([]string{"ip", "netns", "exec", forger}, strings.Fields(cmd)...)...)
				}
			}
			do(t, "ip", "-n", outside, "route", "add", "127.0.0.0/8", "via", "203.0.113.2")
			do(t, "ip", "-n", web, "route", "add", "127.0.0.0/8", "via", "10.6.0.1")
			for _, c := range []struct{ ns, addr, want string }{
				{outside, "203.0.113.2:8080", "203.0.113.1"},
				{"", "127.0.0.1:8080", "10.6.0.1"},
				{"", "127.0.0.1:8081", "10.6.0.1"},
				{"", "203.0.113.2:8080", "203.0.113.2"},
				{"", "10.7.0.1:8080", "10.7.0.1"},
				{web, "203.0.113.2:8080", "10.6.0.1"}, // itself
				{web, "10.6.0.1:8080", "10.6.0.1"},
				{db, "203.0.113.2:8080", "10.7.0.2"},
				{web, "203.0.113.2:8082", "10.6.0.2"},
				{"", "203.0.113.2:8082", "203.0.113.2"},
				{"", "127.0.0.1:8082", ""}, // not on that address
				{outside, "203.0.113.2:8081", ""},
				{db, "10.6.0.2:80", ""}, // networks are apart
				{"", "127.0.0.1:9000", "127.0.0.1"},
				{outside, "127.0.0.1:8081", ""},
				{outside, "127.0.0.1:8080", ""},
				{web, "127.0.0.1:9000", ""}, // CVE-2020-8558
				{web, "127.0.0.1:8081", ""},
			} {
				if got := sees(t, c.ns, c.addr, c.want != ""); got != c.want {
					t.Errorf("%q to %s is seen as %q, want %q", c.ns, c.addr, got, c.want)
				}
			}
			if told := do(t, "ip", "netns", "exec", web, "cat", "/proc/net/snmp"); strings.Contains(told, "InType5") {
				t.Error("a container was told of another way to a published port")
			}
			// Without the rule it is the host's loopback that is reached: the
			// test shows something.
			do(t, "iptables-"+backend, "-w", "-t", "raw", "-F", rawChain)
			if sees(t, web, "127.0.0.1:9000", true) == "" {
				t.Error("the host's loopback cannot be reached even without a rule")
			}
		})
	}
}
