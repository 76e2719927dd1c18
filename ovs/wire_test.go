package ovs

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// frame is an Ethernet frame with an IPv4 and UDP packet, without checksums.
func frame(t *testing.T, src, dst, srcIP, dstIP string) []byte {
	t.Helper()
	hw := func(s string) []byte {
		m, err := net.ParseMAC(s)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	b := append(append(hw(dst), hw(src)...), 0x08, 0x00)
	ip := []byte{0x45, 0, 0, 32, 0, 1, 0, 0, 64, 17, 0, 0}
	s, d := addr(srcIP).As4(), addr(dstIP).As4()
	ip = append(append(ip, s[:]...), d[:]...)
	udp := []byte{0, 9, 0, 9, 0, 12, 0, 0, 'p', 'i', 'n', 'g'}
	return append(append(b, ip...), udp...)
}

// What leaves by a tunnel carries the network's VNI and no 802.1Q tag, though
// the ports have one; and an agent that starts again keeps the counters.
func TestWire(t *testing.T) {
	x := newTracer(t)
	// In user space the tunnel's address lies on a bridge's port.
	vsctl(t, x.i, "add-br", "br-phy", "--", "set", "Bridge", "br-phy", "datapath_type=netdev")
	x.i.AddVeth(t, "up0")
	vsctl(t, x.i, "add-port", "br-phy", "up0")
	x.i.Run(t, "ip", "addr", "add", "198.18.0.1/24", "dev", "br-phy")
	x.i.Run(t, "ip", "link", "set", "br-phy", "up")
	const underlay = "02:00:00:00:00:99"
	eventually(t, "the tunnel has a route", func() bool {
		return strings.Contains(x.i.Run(t, "ovs-appctl", "ovs/route/show"), "198.18.0.0/24")
	})
	x.i.Run(t, "ovs-appctl", "tnl/neigh/set", "br-phy", "198.18.0.2", underlay)

	capture := exec.Command("nsenter", "--net="+filepath.Join("/run/netns", x.i.NetNS), "--", "tcpdump", "-i", "up0p", "-n", "-U", "-c", "1", "-w", "-", "udp", "dst", "port", "4789")
	var packets, log lockedBuffer
	capture.Stdout, capture.Stderr = &packets, &log
	if err := capture.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- capture.Wait() }()
	t.Cleanup(func() { _ = capture.Process.Kill() })
	eventually(t, "tcpdump listens", func() bool { return strings.Contains(log.String(), "listening on") })
	inner := frame(t, mac(2), mac(4), "10.6.0.2", "10.6.0.4")
	send := func() {
		x.i.Run(t, "ovs-ofctl", "-O", "OpenFlow10", "packet-out", x.s.controlTarget(),
			"in_port=1,packet="+hex.EncodeToString(inner)+",actions=resubmit(,0)")
	}
	eventually(t, "a packet leaves", func() bool {
		send()
		select {
		case err := <-done:
			if err != nil {
				t.Fatalf("tcpdump: %v: %s", err, log.String())
			}
			return true
		default:
			return false
		}
	})
	const fileHeader, packetHeader, outer = 24, 16, 14 + 20 + 8
	got := packets.Bytes()[fileHeader+packetHeader:]
	if outerType := binary.BigEndian.Uint16(got[12:]); outerType != 0x0800 {
		t.Errorf("outside is of type %#x", outerType)
	}
	if vni := binary.BigEndian.Uint32(got[outer+4:]) >> 8; vni != vniA {
		t.Errorf("VNI is %d", vni)
	}
	if payload := got[outer+8:]; !bytes.Equal(payload, inner) {
		t.Errorf("inside (-want +got):\n%s", cmp.Diff(hex.Dump(inner), hex.Dump(payload)))
	}

	counter := regexp.MustCompile(`n_packets=([1-9]\d*), .* actions=set_field:0x64->tun_id,output:5`)
	count := func() string {
		out := x.i.Run(t, "ovs-ofctl", "-O", "OpenFlow14", "--no-names", "dump-flows", x.s.controlTarget(), "table=4,dl_dst="+mac(4))
		if m := counter.FindStringSubmatch(out); m != nil {
			return m[1]
		}
		return ""
	}
	eventually(t, "the packets are counted", func() bool { return count() != "" })
	before := count()
	again := openOn(t, x.i)
	if err := again.SetForwarding(t.Context(), traced()); err != nil {
		t.Fatal(err)
	}
	if after := count(); after != before {
		t.Errorf("packets counted: %s, then %q", before, after)
	}
}
