package systemtest

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/socketplane/socketplane/agent/api"
)

// pathWait bounds how long it may take until a changed path is noticed everywhere:
// a check every ten seconds, some seconds to measure, ten until the others read it.
const pathWait = 90 * time.Second

// narrowWire has the wire lose packets of more than mtu bytes from and to h2, without
// a word, until the function that it gives or the end of the test.
func narrowWire(t testing.TB, mtu int) (widen func()) {
	t.Helper()
	nft := func(script string) error {
		cmd := exec.Command("nsenter", "--net="+underlayNamespace, "--", "nft", "-f", "-")
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	h2 := cluster.Host(2).Addr
	script := "table netdev narrow {\n" +
		fmt.Sprintf("chain h2 { type filter hook ingress device h2 priority 0; meta length > %d counter drop; }\n", mtu)
	for _, h := range []string{"h1", "h3"} {
		script += fmt.Sprintf("chain %s { type filter hook ingress device %s priority 0; ip daddr %s meta length > %d counter drop; }\n", h, h, h2, mtu)
	}
	if err := nft(script + "}\n"); err != nil {
		t.Fatal(err)
	}
	done := false
	widen = func() {
		if done = true; nft("delete table netdev narrow\n") != nil {
			t.Error("the wire stays narrow")
		}
	}
	t.Cleanup(func() {
		if !done {
			widen()
		}
		widened(t)
	})
	return widen
}

// widened has the hosts forget that the wire was narrow, for the tests that follow.
func widened(t testing.TB) {
	t.Helper()
	for k := 1; k <= 3; k++ {
		sp(t, k, "agent", "stop")
		must(t, k, "rm", "-f", "/var/lib/socketplane/path-mtu.json")
		sp(t, k, "agent", "start")
	}
	for k := 1; k <= 3; k++ {
		awaitAgent(t, k)
		wantPaths(t, k, 1500, 1500, 1500)
		healthy(t, k)
	}
}

func statusOf(t testing.TB, k int) api.Status {
	t.Helper()
	var s api.Status
	decode(t, sp(t, k, "agent", "status", "-o", "json"), &s)
	return s
}

// wantPaths waits until host k says that its paths to h1, h2, h3 have these MTUs.
func wantPaths(t testing.TB, k int, mtus ...int) {
	t.Helper()
	eventuallyIn(t, pathWait, fmt.Sprintf("the paths of h%d are %v", k, mtus), func() error {
		r := try(t, k, "socketplane", "agent", "status", "-o", "json")
		var s api.Status
		if err := json.Unmarshal([]byte(r.stdout), &s); err != nil {
			return fmt.Errorf("%w: %s", err, r.stderr)
		}
		for _, p := range s.Peers {
			if want := mtus[p.Name[1]-'1']; p.PathMTU != want {
				return fmt.Errorf("to %s: %d; problems %q", p.Name, p.PathMTU, s.Problems)
			}
		}
		return nil
	})
}

// mtuInside is the MTU of the container's eth0.
func (c container) mtuInside(t testing.TB) string {
	t.Helper()
	return strings.TrimSpace(c.exec(t, "cat", "/sys/class/net/eth0/mtu").stdout)
}

// transfers says whether TCP carries some megabytes between two containers.
func (c container) transfers(t testing.TB, to container) error {
	t.Helper()
	must(t, to.host, "docker", "exec", "-d", to.name, "iperf3", "-s", "-1")
	var r result
	eventually(t, "iperf3 listens", func() error {
		r = try(t, c.host, "docker", "exec", c.name, "timeout", "20", "iperf3", "-c", to.ip, "-n", "4M", "--connect-timeout", "3000")
		if strings.Contains(r.stderr, "refused") {
			return errors.New(r.stderr)
		}
		return nil
	})
	if r.code != 0 {
		return fmt.Errorf("4 MB do not arrive: %s%s", r.stdout, r.stderr)
	}
	return nil
}

// A wire between hosts takes less than their interfaces say, and loses the rest
// without a word. Within a minute and a half all containers have an MTU with which
// everything arrives, also those that ran before and those on other hosts, and status
// says which path it is. Neither who forges answers to probes and errors of ICMP nor a
// restart changes what was found.
func TestNarrowPath(t *testing.T) {
	makeNetwork(t, 1, "narrow", "10.197.0.0/24")
	a, b, c := runContainer(t, 1, "narrow", "na-1"), runContainer(t, 2, "narrow", "na-2"), runContainer(t, 3, "narrow", "na-3")
	whole := []string{"-M", "do", "-s", "1422"} // 1,450 bytes with the headers of IP and ICMP
	fits := []string{"-M", "do", "-s", "1322"}
	eventually(t, "large packets pass", func() error { return errors.Join(a.pings(t, b.ip, whole...), c.pings(t, b.ip, whole...)) })
	wantPaths(t, 1, 1500, 1500, 1500)

	widen := narrowWire(t, 1400)
	if err := a.pings(t, b.ip, whole...); err == nil {
		t.Fatal("the wire is not narrow")
	}
	wantPaths(t, 1, 1400, 1400, 1500)
	wantPaths(t, 2, 1400, 1400, 1400)
	wantPaths(t, 3, 1500, 1400, 1400)
	for _, c := range []container{a, b, c} {
		eventually(t, "the MTU of "+c.name, func() error {
			if got := c.mtuInside(t); got != "1350" {
				return errors.New(got)
			}
			return nil
		})
	}
	for _, from := range []container{a, b, c} {
		for _, to := range []container{a, b, c} {
			if from == to {
				continue
			}
			if err := errors.Join(from.pings(t, to.ip, fits...), from.pings(t, to.ip, "-s", "1400")); err != nil { // in pieces
				t.Errorf("%s to %s: %v", from.name, to.name, err)
			}
		}
	}
	if err := errors.Join(a.transfers(t, b), b.transfers(t, c)); err != nil {
		t.Error(err)
	}
	says := func(k int, peers ...string) {
		t.Helper()
		problems := statusOf(t, k).Problems
		for _, p := range peers {
			if !slices.ContainsFunc(problems, func(s string) bool {
				return strings.Contains(s, `"`+p+`"`) && strings.Contains(s, "1400") && strings.Contains(s, "1350")
			}) {
				t.Errorf("h%d does not say of %s: %q", k, p, problems)
			}
		}
		if len(problems) != len(peers) {
			t.Errorf("h%d says more than of %v: %q", k, peers, problems)
		}
	}
	says(1, "h2")
	says(2, "h1", "h3")
	says(3, "h2")

	forge(t, a, b)
	// The MTU neither rises with a restart nor falls with what is forged; a new
	// measurement begins with each.
	sp(t, 1, "agent", "restart")
	awaitAgent(t, 1)
	if got := a.mtuInside(t); got != "1350" {
		t.Errorf("after a restart the MTU is %s", got)
	}
	wantPaths(t, 1, 1400, 1400, 1500)
	if got := a.mtuInside(t); got != "1350" {
		t.Errorf("after measuring again the MTU is %s", got)
	}
	says(1, "h2")

	if os.Getenv("SOCKETPLANE_TEST_LONG") == "" {
		return
	}
	// A path that is whole again is believed after two minutes; all hosts have to.
	began := time.Now()
	widen()
	for k := 1; k <= 3; k++ {
		eventuallyIn(t, 5*time.Minute, "the path is whole again", func() error {
			if p := statusOf(t, k).Problems; len(p) > 0 {
				return fmt.Errorf("h%d: %q", k, p)
			}
			return nil
		})
	}
	t.Logf("whole again after %s", time.Since(began))
	for _, c := range []container{a, b, c} {
		eventually(t, "the MTU of "+c.name, func() error {
			if got := c.mtuInside(t); got != "1450" {
				return errors.New(got)
			}
			return nil
		})
	}
	eventually(t, "large packets pass", func() error { return errors.Join(a.pings(t, b.ip, whole...), c.pings(t, b.ip, whole...)) })
}

// forge has a stranger on the wire, with the addresses of h2 and of a router, send h1
// answers to probes that h1 did not get and errors that say that packets are too large,
// and a container send probes and answers, until the end of the test.
func forge(t *testing.T, in, peer container) {
	t.Helper()
	vtep := func(k int) station {
		mac := strings.TrimSpace(must(t, k, "cat", "/sys/class/net/br-phy/address"))
		return stationOf(t, mac, cluster.Host(k).Addr.String())
	}
	h1, h2 := vtep(1), vtep(2)
	const question, answer, probe = 0xffffff, 0xfffffe, 0x88b5
	inner := func(size int, dst []byte) []byte {
		f := ethernet([]byte{2, 0x73, 0x70, 1, 0x23, 0x28}, dst, probe, make([]byte, 1286))
		return f[:size]
	}
	var fromWire, fromContainer [][]byte
	for _, dst := range [][]byte{everybody.mac, {2, 0x73, 0x70, 0, 0, 0}, h1.mac, {2, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa}} {
		for _, vni := range []uint32{question, answer} {
			fromWire = append(fromWire, encapsulate(h2, h1, vni, inner(1300, dst)), encapsulate(h2, h1, vni, inner(60, dst)))
		}
		fromContainer = append(fromContainer, inner(60, dst))
	}
	for _, mtu := range []uint16{68, 552, 1280, 1300} { // RFC 1191
		icmp := []byte{3, 4, 0, 0, 0, 0, 0, 0}
		binary.BigEndian.PutUint16(icmp[6:], mtu)
		lost := encapsulate(h1, h2, question, inner(1300, everybody.mac))[14:]
		icmp = append(icmp, lost[:576]...)
		binary.BigEndian.PutUint16(icmp[2:], checksum(icmp))
		for _, from := range []station{h2, nobody.at(h2.ip), nobody} {
			fromWire = append(fromWire, ethernet(from.mac, h1.mac, unix.ETH_P_IP, ipv4(from.ip, h1.ip, unix.IPPROTO_ICMP, icmp)))
		}
		// A container's own errors, to its peer and to the host.
		own := in.station(t)
		for _, to := range []station{peer.station(t), stationOf(t, macOfGateway(t, 1, "narrow"), h1.ip.String())} {
			fromContainer = append(fromContainer, ethernet(own.mac, to.mac, unix.ETH_P_IP, ipv4(own.ip, to.ip, unix.IPPROTO_ICMP, icmp)))
		}
	}
	wire, inside := tapOf(t, "wire to h1", underlayNamespace, "h1"), tapContainer(t, in)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			_, _ = unix.Write(wire.fd, fromWire[i%len(fromWire)])
			_, _ = unix.Write(inside.fd, fromContainer[i%len(fromContainer)])
		}
	}()
	t.Cleanup(func() { close(stop); <-done })
}
