package nat

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
)

func tcp(ip string, port uint16) Port { return at("tcp", ip, port) }

func at(proto, ip string, port uint16) Port {
	p := Port{Proto: proto, HostPort: port}
	if ip != "" {
		p.HostIP = netip.MustParseAddr(ip)
	}
	return p
}

func mustClaim(t *testing.T, c *Claims, owner string, ports ...Port) []Port {
	t.Helper()
	got, err := c.Claim(owner, ports)
	if err != nil {
		t.Fatalf("%s: %v", owner, err)
	}
	return got
}

// newClaims makes one that gives everything back with the test.
func newClaims(t *testing.T) *Claims {
	c := NewClaims()
	t.Cleanup(func() {
		for owner := range c.byOwner {
			c.Release(owner)
		}
	})
	do(t, "ip", "link", "set", "lo", "up")
	return c
}

func TestClaims(t *testing.T) {
	c := newClaims(t)
	mustClaim(t, c, "web", tcp("", 18080), at("udp", "127.0.0.1", 18053))
	for name, taken := range map[string]struct {
		port  Port
		owner string
	}{
		"same":                 {tcp("", 18080), "web"},
		"one address of all":   {tcp("127.0.0.1", 18080), "web"},
		"all of one address":   {at("udp", "0.0.0.0", 18053), "web"},
		"that address":         {at("udp", "127.0.0.1", 18053), "web"},
		"twice its own":        {tcp("", 18081), "db"},
		"twice, other address": {tcp("127.0.0.1", 18081), "db"},
	} {
		_, err := c.Claim("db", []Port{tcp("", 18081), taken.port})
		got, ok := errors.AsType[*PortTakenError](err)
		if !ok || got.Owner != taken.owner {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(c.byOwner) != 1 {
		t.Errorf("a claim that failed left something: %v", c.byOwner)
	}
	// Of another protocol, or another address, it is another port.
	mustClaim(t, c, "db", at("udp", "", 18080), at("udp", "127.0.0.2", 18053))
	if _, err := c.Claim("x", []Port{tcp("192.0.2.1", 18090)}); !errors.Is(err, ErrNotHere) {
		t.Errorf("err = %v", err)
	}
	for _, p := range []Port{{Proto: "sctp", HostPort: 1}, {Proto: "tcp", HostIP: netip.IPv6Loopback(), HostPort: 1}} {
		if _, err := c.Claim("x", []Port{p}); err == nil {
			t.Errorf("%v was taken", p)
		}
	}
	// Another list: what stays is held throughout, the rest goes.
	mustClaim(t, c, "web", tcp("", 18080), tcp("", 18082))
	mustClaim(t, c, "db", at("udp", "127.0.0.1", 18053))
	c.Release("web")
	c.Release("web")
	mustClaim(t, c, "db", tcp("", 18080), tcp("", 18082))
	mustClaim(t, c, "db")
	if len(c.byOwner) != 0 {
		t.Errorf("left: %v", c.byOwner)
	}
}

// TestClaimsShared: the endpoints of one container may hold the same port. It is
// never free while one of them is there.
func TestClaimsShared(t *testing.T) {
	c := newClaims(t)
	mustClaim(t, c, "eth0", tcp("", 18080), at("udp", "", 18053))
	share := func(owner string, with []string, ports ...Port) error {
		_, err := c.Claim(owner, ports, with...)
		return err
	}
	takenBy := func(what, owner string, err error) {
		t.Helper()
		if got, ok := errors.AsType[*PortTakenError](err); !ok || got.Owner != owner {
			t.Errorf("%s: %v", what, err)
		}
	}
	takenBy("not named", "eth0", share("eth1", []string{"eth2"}, tcp("", 18080)))
	takenBy("another address", "eth0", share("eth1", []string{"eth0"}, tcp("127.0.0.1", 18080)))
	takenBy("twice", "eth1", share("eth1", []string{"eth0"}, tcp("", 18080), tcp("", 18080)))
	for range 2 {
		if err := share("eth1", []string{"eth0"}, tcp("0.0.0.0", 18080), tcp("", 18081)); err != nil {
			t.Fatal(err)
		}
	}
	held := func(what string) {
		t.Helper()
		if l, err := net.Listen("tcp4", "0.0.0.0:18080"); err == nil {
			_ = l.Close()
			t.Errorf("%s: a program got the port", what)
		}
	}
	held("both")
	c.Release("eth0")
	held("the second")
	takenBy("what the second keeps", "eth1", share("web", nil, tcp("", 18080)))
	mustClaim(t, c, "web", at("udp", "", 18053)) // the first's alone
	if err := share("eth0", []string{"eth1"}, tcp("", 18080)); err != nil {
		t.Error(err)
	}
	c.Release("eth1")
	held("the first again")
	c.Release("eth0")
	mustClaim(t, c, "web", tcp("", 18080))
}

func TestClaimsChoose(t *testing.T) {
	c := newClaims(t)
	asked := []Port{tcp("", 0), tcp("127.0.0.1", 0), at("udp", "", 0), tcp("", 0)}
	first := mustClaim(t, c, "web", asked...)
	seen := map[Port]bool{}
	for i, p := range first {
		if p.HostPort == 0 || p.Proto != asked[i].Proto || seen[p] {
			t.Errorf("chosen: %v", first)
		}
		seen[p] = true
	}
	// Asked again, or with what was chosen, they stay.
	for _, again := range [][]Port{asked, first} {
		for i, p := range mustClaim(t, c, "web", again...) {
			if p != first[i] {
				t.Errorf("%v became %v", first[i], p)
			}
		}
	}
	if _, err := c.Claim("db", first[:1]); err == nil {
		t.Error("a chosen port is not held")
	}
}

// TestClaimsAndPrograms: neither gets what the other has, whatever the options
// of the program's sockets; Go's have SO_REUSEADDR.
func TestClaimsAndPrograms(t *testing.T) {
	c := newClaims(t)
	listen := func(proto, addr string) (interface{ Close() error }, error) {
		if proto == "udp" {
			return net.ListenPacket("udp", addr)
		}
		return net.Listen("tcp", addr)
	}
	for _, proto := range []string{"tcp", "udp"} {
		for _, mine := range []string{"", "127.0.0.1"} {
			mustClaim(t, c, "web", at(proto, mine, 18080))
			for _, theirs := range []string{"127.0.0.1:18080", "0.0.0.0:18080", ":18080"} {
				if l, err := listen(proto, theirs); err == nil {
					_ = l.Close()
					t.Errorf("%s %q is held, and a program got %s", proto, mine, theirs)
				}
			}
			c.Release("web")
			for _, theirs := range []string{"127.0.0.1:18080", "0.0.0.0:18080", ":18080"} {
				l, err := listen(proto, theirs)
				if err != nil {
					t.Fatal(err)
				}
				_, err = c.Claim("web", []Port{at(proto, mine, 18080)})
				if taken, ok := errors.AsType[*PortTakenError](err); !ok || taken.Owner != "" {
					t.Errorf("%s %s is a program's, and was claimed: %v", proto, theirs, err)
				}
				_ = l.Close()
			}
		}
	}
}

// TestClaimLingering: a program that has ended leaves connections behind for a
// minute; its port can be claimed, and is kept from others all the same.
func TestClaimLingering(t *testing.T) {
	c := newClaims(t)
	l, err := net.Listen("tcp4", "127.0.0.1:18080")
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_, _, _ = server.Close(), l.Close(), client.Close() // who closes first lingers
	for _, ip := range []string{"127.0.0.1", "0.0.0.0"} {
		mustClaim(t, c, "web", tcp(ip, 18080))
		if l, err := net.Listen("tcp4", "127.0.0.1:18080"); err == nil {
			_ = l.Close()
			t.Error("a program got it")
		}
		// Nobody is left waiting for an answer that never comes from us as if
		// there were a server.
		d := net.Dialer{Timeout: 200 * time.Millisecond}
		if conn, err := d.Dial("tcp4", "127.0.0.1:18080"); err == nil {
			_ = conn.Close()
			t.Error("the claim takes connections")
		}
		c.Release("web")
	}
}
