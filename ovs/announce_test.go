package ovs

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// listener hears ARP replies at the far end of an endpoint's veth.
type listener struct{ out, log lockedBuffer }

func (x tracer) listen(t *testing.T, ifname string) *listener {
	t.Helper()
	l := &listener{}
	cmd := exec.Command("nsenter", "--net="+filepath.Join("/run/netns", x.i.NetNS), "--", "tcpdump", "-i", ifname, "-n", "-l", "-e", "arp[6:2] == 2")
	cmd.Stdout, cmd.Stderr = &l.out, &l.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	eventually(t, "tcpdump listens", func() bool { return strings.Contains(l.log.String(), "listening on") })
	return l
}

func (l *listener) heard(ip, mac string) bool {
	return strings.Contains(l.out.String(), "Reply "+ip+" is-at "+mac)
}

// A member that asked for an address in vain hears of it as soon as the switch knows
// it; the other members may hear it too, other networks do not. Of an address that
// nobody asked for nobody hears.
func TestAskedForIsAnnounced(t *testing.T) {
	x := newTracer(t)
	a, b := x.listen(t, "a1p"), x.listen(t, "b1p")
	ask := func(ip string) {
		t.Helper()
		own, err := net.ParseMAC(mac(2))
		if err != nil {
			t.Fatal(err)
		}
		q := announcement{ip: netip.MustParseAddr("10.6.0.2"), mac: own}.frame()
		q[21] = 1 // a request
		target := netip.MustParseAddr(ip).As4()
		copy(q[38:], target[:])
		x.i.Run(t, "ovs-ofctl", "-O", "OpenFlow10", "packet-out", x.s.controlTarget(),
			"in_port=1,packet="+hex.EncodeToString(q)+",actions=resubmit(,0)")
	}
	f := traced()
	learn := func(ip, hw string) {
		t.Helper()
		f.Segments[0].Remote = append(f.Segments[0].Remote, Remote{MAC: hw, IP: netip.MustParseAddr(ip), OFPort: portT1})
		if err := x.s.SetForwarding(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	learn("10.6.0.100", mac(100)) // nobody asked
	ask("10.6.0.101")
	ask("10.6.0.102")
	asked := time.Now()
	learn("10.6.0.101", mac(101))
	eventually(t, "who asked hears", func() bool { return a.heard("10.6.0.101", mac(101)) })
	if took := time.Since(asked); took < askedFor*time.Second { // else a stalled machine has forgotten the question
		learn("10.6.0.102", mac(102))
		eventually(t, "the second too", func() bool {
			return a.heard("10.6.0.102", mac(102)) || time.Since(asked) > askedFor*time.Second
		})
	}
	if a.heard("10.6.0.100", mac(100)) {
		t.Errorf("told unasked:\n%s", a.out.String())
	}
	if s := b.out.String(); s != "" {
		t.Errorf("another network was told:\n%s", s)
	}
	// What was asked for is forgotten; what is told again after that is told nobody.
	eventually(t, "questions are forgotten", func() bool {
		out := x.i.Run(t, "ovs-ofctl", "-O", "OpenFlow14", "dump-flows", x.s.controlTarget(), "table=11")
		return !strings.Contains(out, "arp")
	})
	before := strings.Count(a.out.String(), "Reply")
	if err := x.s.announce(t.Context(), []announcement{{vni: vniA, ip: netip.MustParseAddr("10.6.0.101"), mac: net.HardwareAddr{2, 0x42, 10, 6, 0, 101}}}); err != nil {
		t.Fatal(err)
	}
	ask("10.6.0.103")
	learn("10.6.0.103", mac(103))
	eventually(t, "the next is told", func() bool { return a.heard("10.6.0.103", mac(103)) })
	if n := strings.Count(a.out.String(), "Reply"); n != before+1 {
		t.Errorf("%d replies more:\n%s", n-before, a.out.String())
	}
}

// A member that asks from an address that it is allowed beside its own hears of the
// answer, too.
func TestAskedFromAllowedAddress(t *testing.T) {
	x := newTracer(t)
	heard := x.listen(t, "a1p")
	own, err := net.ParseMAC(mac(2))
	if err != nil {
		t.Fatal(err)
	}
	f := sharing()
	if err := x.s.SetForwarding(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	for n := 101; n < 110; n++ { // again, where a stalled machine has forgotten the question
		ip := netip.AddrFrom4([4]byte{10, 6, 0, byte(n)})
		q := announcement{ip: netip.MustParseAddr("10.6.0.200"), mac: own}.frame()
		q[21] = 1 // a request
		target := ip.As4()
		copy(q[38:], target[:])
		began := time.Now()
		x.i.Run(t, "ovs-ofctl", "-O", "OpenFlow10", "packet-out", x.s.controlTarget(),
			"in_port=1,packet="+hex.EncodeToString(q)+",actions=resubmit(,0)")
		f.Segments[0].Remote = append(f.Segments[0].Remote, Remote{MAC: mac(n), IP: ip, OFPort: portT1})
		if err := x.s.SetForwarding(t.Context(), f); err != nil {
			t.Fatal(err)
		}
		if time.Since(began) > askedFor*time.Second {
			continue
		}
		eventually(t, "who asked hears", func() bool { return heard.heard(ip.String(), mac(n)) })
		return
	}
	t.Error("the machine is too slow to ask and to answer within three seconds")
}

// Questions do not fill the switch.
func TestQuestionsAreBounded(t *testing.T) {
	for _, f := range traced().Flows() {
		if f.Table == tableAnswer && f.Priority == 10 && !strings.Contains(f.Actions, fmt.Sprintf("limit=%d,hard_timeout=%d,", askedLimit, askedFor)) {
			t.Errorf("%s", f)
		}
	}
	var r rendering
	var lines, diff []string
	for i := range 1000 {
		r.answer(Segment{VNI: vniA}, netip.AddrFrom4([4]byte{10, 6, byte(i >> 8), byte(i)}), mac(2))
	}
	for _, f := range r.flows {
		lines = append(lines, f.addLine())
		// As diff-flows prints it.
		diff = append(diff, strings.Replace(strings.Replace(fmt.Sprintf("+table=2 %s cookie=%#x actions=%s", f.rule(), Cookie, f.Actions), "arp_op=1,", "", 1), " cookie", ",arp_op=1 cookie", 1))
	}
	diffed, err := parseDiff(strings.Join(diff, "\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, lines := range [][]string{lines, diffed} {
		got := news(lines)
		if len(got) != maxAnnounced || got[5].ip != netip.MustParseAddr("10.6.0.5") || got[5].vni != vniA || got[5].mac.String() != mac(2) {
			t.Errorf("%d of %q", len(got), lines[5])
		}
	}
	for _, f := range traced().Flows() {
		is := f.Table == tableAnswer && strings.Contains(f.Match, "arp_tpa") && f.Actions != "drop"
		if got := news([]string{f.addLine()}); len(got) == 1 != is || len(news([]string{f.deleteLine()})) > 0 {
			t.Errorf("%v of %s", got, f)
		}
	}
}

// A kernel that has asked once, and would ask again in a minute only, knows the
// address as soon as it is announced.
func TestKernelTakesAnnouncement(t *testing.T) {
	x := newTracer(t)
	x.i.Run(t, "ip", "link", "set", "a1p", "address", mac(2))
	x.i.Run(t, "ip", "addr", "add", "10.6.0.2/16", "dev", "a1p")
	x.i.Run(t, "ip", "ntable", "change", "name", "arp_cache", "dev", "a1p", "retrans", "60000")
	f := traced()
	neighbour := func(ip string) string { return x.i.Run(t, "ip", "neigh", "show", ip, "dev", "a1p") }
	for n := 101; n < 110; n++ { // again, where a stalled machine has forgotten the question
		ip := fmt.Sprint("10.6.0.", n)
		began := time.Now()
		ping := exec.Command("nsenter", "--net="+filepath.Join("/run/netns", x.i.NetNS), "--", "ping", "-c", "1", "-W", "1", ip)
		if err := ping.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the kernel asks", func() bool { return strings.Contains(neighbour(ip), "INCOMPLETE") })
		eventually(t, "the switch has heard it", func() bool {
			return time.Since(began) > askedFor*time.Second ||
				strings.Contains(x.i.Run(t, "ovs-ofctl", "-O", "OpenFlow14", "dump-flows", x.s.controlTarget(), "table=11"), "arp_spa="+ip)
		})
		f.Segments[0].Remote = append(f.Segments[0].Remote, Remote{MAC: mac(n), IP: netip.MustParseAddr(ip), OFPort: portT1})
		if err := x.s.SetForwarding(t.Context(), f); err != nil {
			t.Fatal(err)
		}
		late := time.Since(began) > askedFor*time.Second
		eventually(t, "the kernel knows", func() bool { return late || strings.Contains(neighbour(ip), mac(n)) })
		_ = ping.Wait() // nobody answers
		if !late {
			return
		}
	}
	t.Error("the machine is too slow to ask and to answer within three seconds")
}
