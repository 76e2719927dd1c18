package nat

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"
)

// TestHolder: who has a port that cannot be claimed is told by name.
func TestHolder(t *testing.T) {
	runtime.LockOSThread() // the tables are those of the thread's namespace
	defer runtime.UnlockOSThread()
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close() //nolint:errcheck // nothing was sent
	tcp, err := net.Listen("tcp", "[::]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close() //nolint:errcheck // nothing was sent
	for _, p := range []Port{
		{Proto: "udp", HostPort: udp.LocalAddr().(*net.UDPAddr).AddrPort().Port()},
		{Proto: "udp", HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: udp.LocalAddr().(*net.UDPAddr).AddrPort().Port()},
		{Proto: "tcp", HostPort: tcp.Addr().(*net.TCPAddr).AddrPort().Port()},
	} {
		claims := NewClaims()
		_, err := claims.Claim("web", []Port{p})
		claims.Close()
		taken, ok := errors.AsType[*PortTakenError](err)
		if !ok || taken.Owner != "" || taken.PID != os.Getpid() || taken.Program == "" {
			t.Errorf("%s: %+v", p, taken)
		}
	}
	if pid, program := holder(Port{Proto: "udp", HostIP: netip.MustParseAddr("127.0.0.2"), HostPort: udp.LocalAddr().(*net.UDPAddr).AddrPort().Port()}); pid != 0 {
		t.Errorf("another address's is %d's, %s", pid, program)
	}
}

// TestHolderKeepsNobody: while who has a port is looked for, others claim and release.
func TestHolderKeepsNobody(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // nothing was sent
	claims := NewClaims()
	defer claims.Close()
	looking, found := make(chan struct{}), make(chan struct{})
	claims.holder = func(Port) (int, string) {
		close(looking)
		<-found
		return 7, "somebody"
	}
	failed := make(chan error, 1)
	go func() {
		_, err := claims.Claim("web", []Port{{Proto: "tcp", HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: l.Addr().(*net.TCPAddr).AddrPort().Port()}})
		failed <- err
	}()
	<-looking
	done := make(chan error, 1)
	go func() {
		_, err := claims.Claim("db", []Port{{Proto: "tcp", HostIP: netip.MustParseAddr("127.0.0.1")}})
		claims.Release("db")
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("another claim waits for the search")
	}
	close(found)
	if taken, ok := errors.AsType[*PortTakenError](<-failed); !ok || taken.PID != 7 || taken.Program != "somebody" {
		t.Errorf("%+v", taken)
	}
}

func FuzzParseLocal(f *testing.F) {
	f.Add("0100007F:14E9")
	f.Add("00000000000000000000000000000000:0050")
	f.Add(":")
	f.Fuzz(func(_ *testing.T, s string) { _, _ = parseLocal(s) })
}

func TestParseLocal(t *testing.T) {
	for s, want := range map[string]string{
		"0100007F:14E9": "127.0.0.1:5353", "00000000:0050": "0.0.0.0:80", "0000000000000000FFFF00000100007F:0050": "127.0.0.1:80",
		"00000000000000000000000000000000:0050": "[::]:80",
	} {
		if got, err := parseLocal(s); err != nil || got.String() != want {
			t.Errorf("%s is %s, %v; want %s", s, got, err, want)
		}
	}
}
