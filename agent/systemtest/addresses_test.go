package systemtest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// keepalived runs the real one in a container's network, and ends it with the test.
// It gives what ends it at once.
func keepalived(t *testing.T, c container, priority int, vip string) (stop func()) {
	t.Helper()
	config := fmt.Sprintf(`global_defs {
  vrrp_version 3
}
vrrp_instance vip {
  state BACKUP
  interface eth0
  virtual_router_id 51
  priority %d
  advert_int 0.2
  virtual_ipaddress {
    %s
  }
}
`, priority, vip)
	dir := "/run/keepalived-" + c.name
	must(t, c.host, "mkdir", "-p", dir)
	if r := tryInput(t, c.host, config, "tee", dir+"/conf"); r.code != 0 {
		t.Fatal(r.stderr)
	}
	must(t, c.host, "nsenter", "-t", pidOf(t, c), "-n", "keepalived", "--vrrp", "-f", dir+"/conf", "-p", dir+"/pid", "-r", dir+"/vrrp")
	stop = func() {
		_ = try(t, c.host, "sh", "-c", "kill $(cat "+dir+"/pid) 2>/dev/null")
		eventually(t, "keepalived of "+c.name+" ends", func() error {
			if try(t, c.host, "test", "-e", dir+"/pid").code == 0 {
				return errors.New("its pid file is there")
			}
			return nil
		})
	}
	t.Cleanup(stop)
	return stop
}

// knowsAs says whether the container's kernel has vip at another's MAC address.
func (c container) knowsAs(t testing.TB, vip string, owner container) error {
	t.Helper()
	mac := info(t, owner.host, owner.name).MAC
	r := try(t, c.host, "nsenter", "-t", pidOf(t, c), "-n", "ip", "neigh", "show", "to", vip)
	if !strings.Contains(r.stdout, mac) {
		return fmt.Errorf("%s has %q, %s is %s", c.name, strings.TrimSpace(r.stdout), owner.name, mac)
	}
	return nil
}

// Promise: keepalived moves an address between two containers on two hosts; a third,
// and the hosts, go on reaching it; who is not allowed the address never has it.
func TestMovingAddress(t *testing.T) {
	const vip = "10.160.0.200"
	makeNetwork(t, 1, "vip", "10.160.0.0/24")
	a := runContainer(t, 1, "vip", "vip-a", "--allow-address", vip)
	// By Docker's own door, on another host.
	eventually(t, "Docker on h2 has the network", func() error {
		if r := try(t, 2, "docker", "network", "inspect", "vip"); r.code != 0 {
			return errors.New(r.stderr)
		}
		return nil
	})
	must(t, 2, "docker", "run", "-d", "--init", "--name", "vip-b", "--network", "name=vip,driver-opt=socketplane.allow-address="+vip, "lab", "sleep", "100000")
	t.Cleanup(func() { _ = try(t, 2, "docker", "rm", "-f", "vip-b") })
	var b container
	eventually(t, "vip-b is named", func() error {
		r := try(t, 2, "socketplane", "info", "vip-b")
		if r.code == 0 {
			b = container{host: 2, name: "vip-b", ip: info(t, 2, "vip-b").IP}
		}
		return boolError(r.code == 0, r.stderr)
	})
	client := runContainer(t, 3, "vip", "vip-c")
	beside := runContainer(t, 2, "vip", "vip-d")
	liar := runContainer(t, 3, "vip", "vip-x", "--cap-add", "NET_ADMIN", "--cap-add", "NET_RAW")
	for _, c := range []container{a, b} {
		eventually(t, "the client reaches "+c.name, func() error { return client.pings(t, c.ip) })
	}

	stopA := keepalived(t, a, 150, vip)
	eventually(t, "the client reaches the address", func() error { return client.pings(t, vip) })
	keepalived(t, b, 100, vip)
	reached := func(owner container) {
		t.Helper()
		for _, c := range []container{client, beside} {
			eventually(t, c.name+" reaches "+owner.name, func() error { return errors.Join(c.pings(t, vip), c.knowsAs(t, vip, owner)) })
		}
		for k := 1; k <= 3; k++ { // the hosts, by their gateways
			eventually(t, fmt.Sprintf("h%d reaches the address", k), func() error {
				if r := try(t, k, "ping", "-c", "1", "-W", "1", vip); r.code != 0 {
					return errors.New(r.stdout)
				}
				return nil
			})
		}
	}
	reached(a)

	// The move, and back: heard by its announcement, long before anybody asks again.
	probe := startProbe(t, "the address", client.namespace(t), vip)
	probe.awaitSent(t, 50)
	begin := time.Now()
	stopA()
	eventually(t, "the address answers again", func() error { return boolError(!probe.answeredAfter(begin).IsZero(), "not yet") })
	reached(b)
	sent, lost := probe.finish(time.Second)
	t.Logf("the move from h1 to h2 took %d of %d pings, one every %v", len(lost), sent, probeEvery)
	probe = startProbe(t, "the address", client.namespace(t), vip)
	probe.awaitSent(t, 50)
	keepalived(t, a, 150, vip)
	eventually(t, "the client hears of the move back", func() error { return client.knowsAs(t, vip, a) })
	reached(a)
	sent, lost = probe.finish(time.Second)
	t.Logf("the move back took %d of %d pings", len(lost), sent)

	// A container that takes the address without being allowed it.
	eventually(t, "vip-x reaches the client", func() error { return liar.pings(t, client.ip) }) // it has its MAC from now on
	ns := []string{"nsenter", "-t", pidOf(t, liar), "-n"}
	must(t, 3, append(ns, "ip", "addr", "add", vip+"/32", "dev", "eth0")...)
	for _, how := range []string{"-U", "-A"} {
		_ = liar.exec(t, "arping", how, "-c", "3", "-I", "eth0", vip)
	}
	_ = liar.exec(t, "ping", "-c", "2", "-W", "1", "-I", vip, client.ip)
	for _, c := range []container{client, beside} {
		if err := errors.Join(c.pings(t, vip, patiently...), c.knowsAs(t, vip, a)); err != nil {
			t.Errorf("after the lies: %v", err)
		}
	}
	eventually(t, "the lies are counted", func() error {
		out := sp(t, 3, "info", "vip-x")
		return boolError(strings.Contains(out, "ARP for an address not its own: ") && strings.Contains(out, "source address not its own: "), out)
	})
	if out := sp(t, 1, "info", "vip-a"); !strings.Contains(out, vip) || strings.Contains(out, "ARP for an address not its own") {
		t.Errorf("info of who is allowed the address:\n%s", out)
	}
	if r := try(t, 3, "socketplane", "run", "-n", "vip", "--rm", "--ip", vip, "lab", "true"); r.code != 125 || !strings.Contains(r.stderr, "allowed") {
		t.Errorf("another container takes the address for its own: status %d, %s", r.code, r.stderr)
	}
	if r := try(t, 3, "socketplane", "run", "-n", "vip", "--rm", "--allow-address", client.ip, "lab", "true"); r.code != 125 || !strings.Contains(r.stderr, "vip-c") {
		t.Errorf("another container is allowed one's own address: status %d, %s", r.code, r.stderr)
	}
}

func boolError(ok bool, otherwise string) error {
	if ok {
		return nil
	}
	return errors.New(otherwise)
}

// Promise: a namespace that routes for what is behind it is reached from other hosts,
// with what it is allowed, and with nothing else.
func TestRouterContainer(t *testing.T) {
	makeNetwork(t, 1, "routed", "10.161.0.0/24")
	router := namespace(t, 1, "rt")
	namespace(t, 1, "rt-behind")
	sp(t, 1, "connect", "-n", "routed", "--netns", router, "--id", "rt", "--forwarding", "--allow-address", "10.199.0.0/24")
	in := func(ns string, argv ...string) {
		t.Helper()
		must(t, 1, append([]string{"ip", "netns", "exec", ns}, argv...)...)
	}
	must(t, 1, "ip", "-n", "rt", "link", "add", "name", "inner", "type", "veth", "peer", "name", "outer", "netns", "rt-behind")
	must(t, 1, "ip", "-n", "rt", "addr", "add", "10.199.0.1/24", "dev", "inner")
	must(t, 1, "ip", "-n", "rt", "link", "set", "dev", "inner", "up")
	in("rt", "sysctl", "-qw", "net.ipv4.ip_forward=1")
	must(t, 1, "ip", "-n", "rt-behind", "addr", "add", "10.199.0.2/24", "dev", "outer")
	must(t, 1, "ip", "-n", "rt-behind", "addr", "add", "10.198.0.2/24", "dev", "outer") // not allowed
	must(t, 1, "ip", "-n", "rt-behind", "link", "set", "dev", "outer", "up")
	must(t, 1, "ip", "-n", "rt-behind", "route", "add", "default", "via", "10.199.0.1")
	must(t, 1, "ip", "-n", "rt", "route", "add", "10.198.0.0/24", "dev", "inner")
	in("rt", "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0")

	client := runContainer(t, 2, "routed", "rt-c")
	via := info(t, 1, "rt").IP
	eventually(t, "the client reaches the router", func() error { return client.pings(t, via) })
	for _, prefix := range []string{"10.199.0.0/24", "10.198.0.0/24"} {
		must(t, 2, "nsenter", "-t", pidOf(t, client), "-n", "ip", "route", "add", prefix, "via", via)
	}
	eventually(t, "the client reaches what is behind", func() error { return client.pings(t, "10.199.0.2") })
	// The same without a route of its own: its gateway leads there, and so do the hosts'.
	must(t, 2, "nsenter", "-t", pidOf(t, client), "-n", "ip", "route", "del", "10.199.0.0/24")
	if err := client.pings(t, "10.199.0.2"); err == nil {
		t.Error("the client reaches what is behind before there is a route")
	}
	if r := try(t, 2, "socketplane", "network", "route", "add", "routed", "10.199.0.0/24", "via", "rt"); r.code != 1 || !strings.Contains(r.stderr, "h1") {
		t.Errorf("a route on another host: status %d, %s", r.code, r.stderr)
	}
	// The settings of each host say what may lead there.
	if r := try(t, 1, "socketplane", "network", "route", "add", "routed", "10.199.0.0/24", "via", "rt"); r.code != 1 || !strings.Contains(r.stderr, "allow_routes") {
		t.Errorf("a route that the settings do not allow: status %d, %s", r.code, r.stderr)
	}
	t.Cleanup(func() {
		for k := 1; k <= 2; k++ {
			restartAgent(t, k)
		}
	})
	restartAgent(t, 1, "SOCKETPLANE_NETWORK_ALLOW_ROUTES=10.199.0.0/16")
	sp(t, 1, "network", "route", "add", "routed", "10.199.0.0/24", "via", "rt")
	eventually(t, "h2 says that its settings do not allow the route", func() error {
		out := sp(t, 2, "agent", "status")
		return boolError(strings.Contains(out, "allow_routes"), out)
	})
	if err := client.pings(t, "10.199.0.2"); err == nil {
		t.Error("a route is used that the settings of the host do not allow")
	}
	restartAgent(t, 2, "SOCKETPLANE_NETWORK_ALLOW_ROUTES=10.199.0.0/16")
	if out := sp(t, 2, "network", "info", "routed"); !strings.Contains(out, "10.199.0.0/24") {
		t.Errorf("network info on h2:\n%s", out)
	}
	beside := runContainer(t, 1, "routed", "rt-d")
	for _, c := range []container{client, beside} {
		eventually(t, c.name+" reaches what is behind by its gateway", func() error { return c.pings(t, "10.199.0.2") })
	}
	for k := 1; k <= 2; k++ {
		eventually(t, fmt.Sprintf("h%d reaches what is behind", k), func() error {
			if r := try(t, k, "ping", "-c", "1", "-W", "1", "10.199.0.2"); r.code != 0 {
				return errors.New(r.stdout + must(t, k, "ip", "route"))
			}
			return nil
		})
	}
	// Over TCP, where each side's packets take ways of their own.
	answer(t, fmt.Sprintf("/proc/%d/root/run/netns/rt-behind", cluster.Host(1).Pid()), "tcp", "10.199.0.2:7000")
	if _, err := askFrom(client.namespace(t), "tcp", "10.199.0.2:7000"); err != nil {
		t.Errorf("over TCP: %v", err)
	}
	must(t, 2, "ip", "route", "del", "10.199.0.0/24")
	eventually(t, "the host's route comes back", func() error {
		out := must(t, 2, "ip", "route", "show", "10.199.0.0/24")
		return boolError(strings.Contains(out, "via "+via), out)
	})
	eventually(t, "what is behind reaches the client", func() error {
		if r := try(t, 1, "ip", "netns", "exec", "rt-behind", "ping", "-c", "1", "-W", "1", client.ip); r.code != 0 {
			return errors.New(r.stdout + r.stderr)
		}
		return nil
	})
	sp(t, 1, "network", "route", "rm", "routed", "10.199.0.0/24")
	eventually(t, "the route goes on h2", func() error {
		out := must(t, 2, "ip", "route", "show", "10.199.0.0/24")
		return boolError(out == "", out)
	})
	if err := client.pings(t, "10.199.0.2"); err == nil {
		t.Error("the client reaches what is behind without a route")
	}
	if err := client.pings(t, "10.198.0.2"); err == nil {
		t.Error("the router sends from a prefix that it is not allowed")
	}
	eventually(t, "that is counted", func() error {
		out := sp(t, 1, "info", "rt")
		return boolError(strings.Contains(out, "source address not its own: "), out)
	})
}

// Promise: a CNI configuration, or the arguments for one container, allow addresses.
func TestAllowedByCNI(t *testing.T) {
	makeNetwork(t, 1, "cniallow", "10.162.0.0/24")
	cniNetwork(t, 1, "cniallow")
	before := traces(t, 1)
	ns := namespace(t, 1, "ca")
	conf := func(more string) string {
		return `{"cniVersion":"1.1.0","name":"cniallow","type":"socketplane-cni",` + more + `}`
	}
	at := "CNI_NETNS=" + ns
	for _, bad := range []string{`"allowAddresses":["10.162.0.1"]`, `"allowAddresses":["10.99.0.1"]`, `"args":{"cni":{"allowAddresses":["10.162.0.255"]}}`} {
		if r := plugin(t, 1, conf(bad), "CNI_COMMAND=ADD", at); r.Code != 102 {
			t.Errorf("%s: %d %q", bad, r.Code, r.Msg)
		}
	}
	eventually(t, "refusals leave nothing", func() error { return differs(before, traces(t, 1)) })
	both := conf(`"allowAddresses":["10.162.0.200"],"args":{"cni":{"allowAddresses":["10.162.0.201"]}}`)
	if r := plugin(t, 1, both, "CNI_COMMAND=ADD", at); r.Code != 0 {
		t.Fatalf("ADD: %+v", r)
	}
	client := runContainer(t, 2, "cniallow", "ca-c")
	for _, vip := range []string{"10.162.0.200", "10.162.0.201"} {
		must(t, 1, "ip", "-n", "ca", "addr", "add", vip+"/32", "dev", "eth0")
		eventually(t, "the client reaches "+vip, func() error { return client.pings(t, vip) })
	}
	must(t, 1, "ip", "-n", "ca", "addr", "add", "10.162.0.202/32", "dev", "eth0")
	if err := client.pings(t, "10.162.0.202"); err == nil {
		t.Error("an address that was not allowed is reached")
	}
	if r := plugin(t, 1, both, "CNI_COMMAND=DEL", at); r.Code != 0 {
		t.Errorf("DEL: %+v", r)
	}
}
