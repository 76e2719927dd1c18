package ovs

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestReturn: a peer's host that came by the gateway port, to a published port,
// is answered by the gateway port; one that came through the tunnel by the tunnel.
func TestReturn(t *testing.T) {
	x := newTracer(t)
	request := func(proto string, port int) string {
		return fmt.Sprintf("in_port=%d,dl_src=%s,dl_dst=%s,%s,nw_src=198.18.0.2,nw_dst=10.6.0.2,%[4]s_src=%d,%[4]s_dst=80", portGW, mac(1), mac(2), proto, port)
	}
	reply := func(proto string, port int) string {
		return fmt.Sprintf("in_port=%d,dl_src=%s,dl_dst=%s,%s,nw_src=10.6.0.2,nw_dst=198.18.0.2,%[4]s_src=80,%[4]s_dst=%d", portA1, mac(2), mac(1), proto, port)
	}
	want := func(when, flow string, want ...string) {
		t.Helper()
		got, raw := x.trace(t, flow)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s%s", when, diff, raw)
		}
	}
	learned := func() int {
		return strings.Count(x.i.Run(t, "ovs-ofctl", "-O", "OpenFlow14", "dump-flows", x.s.controlTarget(), fmt.Sprintf("table=%d", tableReturn)), fmt.Sprintf("cookie=%#x", returnCookie|vniA))
	}
	toGateway, toTunnel := fmt.Sprint(portGW), fmt.Sprintf("%d/%d", portT1, vniA)
	for _, proto := range []string{"tcp", "udp"} {
		want(proto+" before", reply(proto, 4000), toTunnel)
		// Only a packet that is really sent has the switch learn.
		x.i.Run(t, "ovs-appctl", "ofproto/trace", DefaultBridge, request(proto, 4000), "-generate")
		want(proto+" after", reply(proto, 4000), toGateway)
		want(proto+" of another connection", reply(proto, 4001), toTunnel)
	}
	want("ICMP", fmt.Sprintf("in_port=%d,dl_src=%s,dl_dst=%s,icmp,nw_src=10.6.0.2,nw_dst=198.18.0.2", portA1, mac(2), mac(1)), toTunnel)
	if n := learned(); n != 2 {
		t.Errorf("%d connections are remembered", n)
	}
	// What was learned is nobody's to compare, and outlives other changes.
	more := traced()
	more.Segments[0].Remote = append(more.Segments[0].Remote, Remote{MAC: mac(7), IP: addr("10.6.0.7"), OFPort: portT2})
	if err := x.s.SetForwarding(t.Context(), more); err != nil {
		t.Fatal(err)
	}
	if err := x.s.Resync(t.Context(), more); err != nil {
		t.Fatal(err)
	}
	want("after other changes", reply("tcp", 4000), toGateway)
	// It ends with the gateway.
	more.Segments[0].GatewayPort = 0
	if err := x.s.SetForwarding(t.Context(), more); err != nil {
		t.Fatal(err)
	}
	if n := learned(); n != 0 {
		t.Errorf("%d connections are remembered without a gateway", n)
	}
}
