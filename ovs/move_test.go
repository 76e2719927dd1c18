package ovs

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/ovs/ovstest"
)

// mover is a host of its own: a switch with a tunnel to the other, a gateway, and
// endpoints whose kernels are real.
type mover struct {
	i    *ovstest.Instance
	s    *Switch
	vtep netip.Addr
	ns   map[string]string // namespace by endpoint
	port map[string]int
}

func newMover(t *testing.T, n int) *mover {
	t.Helper()
	s, i := open(t)
	m := &mover{i: i, s: s, vtep: addr(fmt.Sprintf("198.18.0.%d", n)), ns: map[string]string{}, port: map[string]int{}}
	// The userspace datapath wants the tunnel's address on a port of a bridge.
	i.Run(t, "ovs-vsctl", "--db="+i.Socket(), "add-br", "br-phy", "--", "set", "bridge", "br-phy", "datapath_type=netdev")
	i.Run(t, "ip", "addr", "add", m.vtep.String()+"/24", "dev", "br-phy")
	i.Run(t, "ip", "link", "set", "br-phy", "up")
	return m
}

// endpoint makes a namespace with an interface on the switch.
func (m *mover) endpoint(t *testing.T, name string, n int) {
	t.Helper()
	ns := m.i.NetNS + "-" + name
	for _, argv := range [][]string{{"netns", "add", ns}, {"-n", ns, "link", "set", "lo", "up"}} {
		if out, err := exec.Command("ip", argv...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", argv, err, out)
		}
	}
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
	m.ns[name] = ns
	m.i.Run(t, "ip", "link", "add", "name", name, "type", "veth", "peer", "name", "eth0", "address", mac(n), "netns", ns)
	m.i.Run(t, "sysctl", "-qw", "net.ipv4.conf."+name+".arp_ignore=8") // the kernel hears what the switch copies
	m.i.Run(t, "ip", "link", "set", "dev", name, "up")
	m.in(t, name, "ethtool", "-K", "eth0", "tx", "off")
	m.in(t, name, "ip", "addr", "add", fmt.Sprintf("10.6.0.%d/16", n), "dev", "eth0")
	m.in(t, name, "ip", "link", "set", "eth0", "up")
	m.in(t, name, "ip", "route", "add", "default", "via", "10.6.0.1")
	var err error
	if m.port[name], err = m.s.AddPort(t.Context(), Port{Name: name, Kind: KindEndpoint, VLAN: 7}); err != nil {
		t.Fatal(err)
	}
}

func (m *mover) command(name string, argv ...string) *exec.Cmd {
	ns := m.i.NetNS
	if name != "" {
		ns = m.ns[name]
	}
	return exec.Command("ip", append([]string{"netns", "exec", ns}, argv...)...)
}

// in runs a program in an endpoint's namespace, or with no name in the host's.
func (m *mover) in(t *testing.T, name string, argv ...string) string {
	t.Helper()
	out, err := m.command(name, argv...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %v: %s", name, argv, err, out)
	}
	return string(out)
}

func (m *mover) pings(name, ip string) bool {
	return m.command(name, "ping", "-c", "1", "-W", "1", ip).Run() == nil
}

func soon(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// An address moves between endpoints on two hosts. Everybody, the hosts too, has it
// where it is, by the announcement alone; who is not allowed it never has it. What is
// behind an endpoint that routes is reached, through the gateway.
func TestAddressMoves(t *testing.T) {
	const vip = "10.6.0.200"
	hosts := []*mover{newMover(t, 1), newMover(t, 2)}
	wire := exec.Command("ip", "-n", hosts[0].i.NetNS, "link", "add", "ul0", "type", "veth", "peer", "name", "ul0", "netns", hosts[1].i.NetNS)
	if out, err := wire.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, h := range hosts {
		h.i.Run(t, "ip", "link", "set", "ul0", "up")
		h.i.Run(t, "ovs-vsctl", "--db="+h.i.Socket(), "add-port", "br-phy", "ul0")
	}
	hosts[0].endpoint(t, "a", 2)      // may have it
	hosts[1].endpoint(t, "b", 3)      // may have it
	hosts[0].endpoint(t, "c", 4)      // a client
	hosts[1].endpoint(t, "d", 5)      // a client
	hosts[1].endpoint(t, "liar", 6)   // may not
	hosts[0].endpoint(t, "router", 7) // routes for 10.99.0.0/24
	where := map[string]int{"a": 0, "b": 1, "c": 0, "d": 1, "liar": 1, "router": 0}
	number := map[string]int{"a": 2, "b": 3, "c": 4, "d": 5, "liar": 6, "router": 7}
	allowed := map[string][]netip.Prefix{
		"a": {prefix(vip + "/32")}, "b": {prefix(vip + "/32")}, "router": {prefix("10.99.0.0/24")},
	}
	for k, h := range hosts {
		other := hosts[1-k]
		tunnels, err := h.s.SetTunnels(t.Context(), []Tunnel{{Peer: "peer", Remote: other.vtep, Local: h.vtep}})
		if err != nil {
			t.Fatal(err)
		}
		gateway, err := h.s.AddPort(t.Context(), Port{Name: "gw", Kind: KindGateway, VLAN: 7, MAC: mac(1), MTU: 1450})
		if err != nil {
			t.Fatal(err)
		}
		h.i.Run(t, "ip", "addr", "add", "10.6.0.1/16", "dev", "gw", "noprefixroute")
		h.i.Run(t, "ip", "link", "set", "gw", "up")
		h.i.Run(t, "ip", "route", "add", "10.6.0.0/16", "dev", "gw", "src", h.vtep.String())
		h.i.Run(t, "ip", "route", "add", "10.99.0.0/24", "via", "10.6.0.7", "dev", "gw", "src", h.vtep.String())
		g := Segment{
			VNI: vniA, Subnet: prefix("10.6.0.0/16"), Gateway: addr("10.6.0.1"), GatewayMAC: mac(1), GatewayPort: gateway,
			Routes: []Route{{prefix("10.99.0.0/24"), addr("10.6.0.7")}},
		}
		for name, n := range number {
			ip := addr(fmt.Sprintf("10.6.0.%d", n))
			if where[name] == k {
				g.Local = append(g.Local, Local{OFPort: h.port[name], MAC: mac(n), IP: ip, Allowed: allowed[name]})
			} else {
				g.Remote = append(g.Remote, Remote{OFPort: tunnels["peer"], MAC: mac(n), IP: ip, Allowed: allowed[name]})
			}
		}
		f := Forwarding{Self: h.vtep, Peers: []Peer{{ID: "peer", VTEP: other.vtep, OFPort: tunnels["peer"]}}, Segments: []Segment{g}}
		if err := h.s.SetForwarding(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	soon(t, "c reaches d", func() bool { return hosts[0].pings("c", "10.6.0.5") })

	has := func(name, owner string) bool { // the client's kernel has it at the owner's MAC
		return strings.Contains(hosts[where[name]].in(t, name, "ip", "neigh", "show", "to", vip), mac(number[owner]))
	}
	reached := func(owner string) {
		t.Helper()
		for _, name := range []string{"c", "d", "liar", "router"} {
			soon(t, fmt.Sprintf("%s reaches the address at %s", name, owner), func() bool { return hosts[where[name]].pings(name, vip) && has(name, owner) })
		}
		for k, h := range hosts {
			soon(t, fmt.Sprintf("host %d reaches the address at %s", k+1, owner), func() bool { return h.pings("", vip) })
		}
	}
	take := func(name string) {
		hosts[where[name]].in(t, name, "ip", "addr", "add", vip+"/32", "dev", "eth0")
		_ = hosts[where[name]].command(name, "busybox", "arping", "-U", "-c", "1", "-I", "eth0", vip).Run()
	}
	take("a")
	reached("a")
	for _, move := range [][2]string{{"a", "b"}, {"b", "a"}} {
		hosts[where[move[0]]].in(t, move[0], "ip", "addr", "del", vip+"/32", "dev", "eth0")
		take(move[1])
		reached(move[1])
	}

	hosts[1].in(t, "liar", "ip", "addr", "add", vip+"/32", "dev", "eth0")
	for _, how := range []string{"-U", "-A"} {
		_ = hosts[1].command("liar", "busybox", "arping", how, "-c", "3", "-w", "3", "-I", "eth0", vip).Run()
	}
	for _, name := range []string{"c", "d"} {
		if !hosts[where[name]].pings(name, vip) || !has(name, "a") {
			t.Errorf("after the lies %s has the address elsewhere", name)
		}
	}
	hosts[1].i.Run(t, "ovs-appctl", "revalidator/wait")
	drops, err := hosts[1].s.Drops(t.Context())
	if err != nil || drops[hosts[1].port["liar"]][CauseARP] == 0 {
		t.Errorf("the lies are not counted: %v, %v", drops, err)
	}

	hosts[0].in(t, "router", "ip", "addr", "add", "10.99.0.1/24", "dev", "lo")
	for _, name := range []string{"c", "d"} {
		soon(t, name+" reaches what is behind the router", func() bool { return hosts[where[name]].pings(name, "10.99.0.1") })
	}
	for k, h := range hosts {
		soon(t, fmt.Sprintf("host %d reaches what is behind the router", k+1), func() bool { return h.pings("", "10.99.0.1") })
	}
}
