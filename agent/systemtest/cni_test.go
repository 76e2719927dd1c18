package systemtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// cniResult is what ADD prints, as far as it is looked at.
type cniResult struct {
	CNIVersion string `json:"cniVersion"`
	Interfaces []struct{ Name, Mac, Sandbox string }
	IPs        []struct {
		Interface        int
		Address, Gateway string
	}
	Routes []struct{ Dst, GW string }
	Code   uint
	Msg    string
}

// plugin calls the plugin itself, as a runtime does; env are words like CNI_COMMAND=ADD.
func plugin(t testing.TB, k int, config string, env ...string) cniResult {
	t.Helper()
	argv := append([]string{"env", "CNI_PATH=/opt/cni/bin", "CNI_CONTAINERID=c1", "CNI_IFNAME=eth0"}, env...)
	r := tryInput(t, k, config, append(argv, "/opt/cni/bin/socketplane-cni")...)
	var said cniResult
	if r.stdout != "" {
		decode(t, r.stdout, &said)
	}
	if (r.code != 0) != (said.Code != 0) {
		t.Fatalf("exit status %d and %q", r.code, r.stdout)
	}
	return said
}

// Promise: ADD twice is an error that leaves the first as it is, CHECK sees what is no longer so and mends
// nothing, DEL succeeds with everything gone, GC frees what is not listed and
// nothing of another configuration.
func TestCNICommands(t *testing.T) {
	makeNetwork(t, 1, "cnicmd", "10.61.0.0/24")
	cniNetwork(t, 1, "cnicmd")
	before := traces(t, 1)
	ns := namespace(t, 1, "cc")
	conf := func(version, more string) string {
		return fmt.Sprintf(`{"cniVersion":%q,"name":"cnicmd","type":"socketplane-cni"%s}`, version, more)
	}
	at := "CNI_NETNS=" + ns

	first := plugin(t, 1, conf("1.1.0", ""), "CNI_COMMAND=ADD", at)
	if len(first.Interfaces) != 2 || len(first.IPs) != 1 || first.IPs[0].Interface != 1 || first.IPs[0].Gateway != "10.61.0.1" ||
		first.Interfaces[1].Sandbox != ns || len(first.Routes) != 1 || first.Routes[0].Dst != "0.0.0.0/0" {
		t.Fatalf("the result is %+v", first)
	}
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		if r := plugin(t, 1, conf(version, ""), "CNI_COMMAND=ADD", at); r.Code != 102 || !strings.Contains(r.Msg, "DEL") {
			t.Errorf("ADD twice: %d %q", r.Code, r.Msg)
		}
		if shown := must(t, 1, "ip", "-n", "cc", "addr", "show", "eth0"); !strings.Contains(shown, first.IPs[0].Address) {
			t.Errorf("ADD twice took the address away:\n%s", shown)
		}
		if r := plugin(t, 1, conf(version, ""), "CNI_COMMAND=DEL", at); r.Code != 0 {
			t.Errorf("DEL: %+v", r)
		}
		if first = plugin(t, 1, conf(version, ""), "CNI_COMMAND=ADD", at); first.CNIVersion != version || len(first.IPs) != 1 {
			t.Fatalf("ADD in version %s: %+v", version, first)
		}
	}

	// Two configurations may put containers on one network.
	other := strings.Replace(conf("1.1.0", `,"network":"cnicmd"`), `"name":"cnicmd"`, `"name":"other"`, 1)
	if r := plugin(t, 1, other, "CNI_COMMAND=ADD", "CNI_IFNAME=eth1", at); r.Code != 0 || len(r.Routes) != 0 {
		t.Errorf("a second configuration: %+v", r)
	}

	prev, err := json.Marshal(map[string]any{
		"cniVersion": "1.1.0", "interfaces": first.Interfaces,
		"ips": []map[string]any{{"interface": 1, "address": first.IPs[0].Address}},
	})
	if err != nil {
		t.Fatal(err)
	}
	check := conf("1.1.0", `,"prevResult":`+strings.ToLower(string(prev)))
	if r := plugin(t, 1, check, "CNI_COMMAND=CHECK", at); r.Code != 0 {
		t.Errorf("CHECK of what is well: %d %s", r.Code, r.Msg)
	}
	for name, c := range map[string]struct {
		config, ns string
		spoil      []string
		mend       []string
		code       uint
	}{
		"another address": {strings.Replace(check, first.IPs[0].Address, "10.61.0.77/24", 1), ns, nil, nil, 105},
		"no result":       {conf("1.1.0", ""), ns, nil, nil, 7},
		"down":            {check, ns, []string{"link", "set", "eth0", "down"}, []string{"link", "set", "eth0", "up"}, 105},
		"address lost":    {check, ns, []string{"addr", "del", first.IPs[0].Address, "dev", "eth0"}, []string{"addr", "add", first.IPs[0].Address, "dev", "eth0"}, 105},
	} {
		if c.spoil != nil {
			must(t, 1, append([]string{"ip", "-n", "cc"}, c.spoil...)...)
		}
		for range 2 { // it has mended nothing the first time
			if r := plugin(t, 1, c.config, "CNI_COMMAND=CHECK", at); r.Code != c.code {
				t.Errorf("CHECK, %s: %d %s, want %d", name, r.Code, r.Msg, c.code)
			}
		}
		if c.mend != nil {
			must(t, 1, append([]string{"ip", "-n", "cc"}, c.mend...)...)
		}
	}

	attached := func() (names []string) {
		var list []endpoint
		decode(t, sp(t, 1, "info", "-o", "json"), &list)
		for _, e := range list {
			if e.Network == "cnicmd" {
				names = append(names, e.IP)
			}
		}
		return names
	}
	if r := plugin(t, 1, conf("1.1.0", `,"cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}]`), "CNI_COMMAND=GC"); r.Code != 0 || len(attached()) != 2 {
		t.Errorf("GC with a valid attachment: %+v, left %v", r, attached())
	}
	if r := plugin(t, 1, conf("1.1.0", ""), "CNI_COMMAND=GC"); r.Code != 7 || len(attached()) != 2 {
		t.Errorf("GC without the list: %+v, left %v", r, attached())
	}
	if r := plugin(t, 1, conf("1.1.0", `,"cni.dev/valid-attachments":[]`), "CNI_COMMAND=GC"); r.Code != 0 || len(attached()) != 1 {
		t.Errorf("GC with an empty list: %+v, left %v", r, attached())
	}
	must(t, 1, "ip", "netns", "del", "cc")
	for range 2 {
		for _, config := range []string{other, conf("0.3.1", "")} {
			for _, name := range []string{"CNI_IFNAME=eth0", "CNI_IFNAME=eth1"} {
				if r := plugin(t, 1, config, "CNI_COMMAND=DEL", name); r.Code != 0 {
					t.Errorf("DEL with everything gone: %+v", r)
				}
			}
		}
	}
	leavesNothing(t, 1, before)
}

// Promise: what cannot be done is an error of the specification, with a
// sentence, and leaves nothing; STATUS and an agent that is away have theirs.
func TestCNIRefuses(t *testing.T) {
	makeNetwork(t, 1, "cnibad", "10.62.0.0/30") // room for one
	cniNetwork(t, 1, "cnibad")
	ns := namespace(t, 1, "cb")
	full := namespace(t, 1, "cf")
	before := traces(t, 1)
	conf := func(more string) string { return `{"cniVersion":"1.1.0","name":"cnibad"` + more + `}` }
	for name, c := range map[string]struct {
		config, ns string
		code       uint
		says       string
	}{
		"no such network":      {conf(`,"network":"nonet"`), ns, 101, "nonet"},
		"outside the subnet":   {conf(`,"args":{"cni":{"ips":["10.99.0.1"]}}`), ns, 102, "10.99.0.1"},
		"the gateway's":        {conf(`,"runtimeConfig":{"ips":["10.62.0.1/30"]}`), ns, 102, "10.62.0.1"},
		"no namespace":         {conf(""), "/run/netns/none", 7, "/run/netns/none"},
		"a device":             {conf(""), "/dev/null", 7, "/dev/null"},
		"the host's own":       {conf(""), "/proc/self/ns/net", 7, "host"},
		"a relative path":      {conf(""), "run/netns/cb", 4, "CNI_NETNS"},
		"a directory too high": {conf(`,"network":"../x"`), ns, 7, "network"},
	} {
		if r := plugin(t, 1, c.config, "CNI_COMMAND=ADD", "CNI_NETNS="+c.ns); r.Code != c.code || !strings.Contains(r.Msg, c.says) {
			t.Errorf("%s: %d %q, want %d and %q", name, r.Code, r.Msg, c.code, c.says)
		}
	}
	leavesNothing(t, 1, before)
	if r := plugin(t, 1, conf(""), "CNI_COMMAND=ADD", "CNI_NETNS="+full, "CNI_CONTAINERID=c2"); r.Code != 0 {
		t.Errorf("the one address: %+v", r)
	}
	if r := plugin(t, 1, conf(""), "CNI_COMMAND=ADD", "CNI_NETNS="+ns); r.Code != 104 {
		t.Errorf("no address is left: %+v", r)
	}

	sp(t, 1, "agent", "stop")
	if r := plugin(t, 1, conf(""), "CNI_COMMAND=STATUS"); r.Code != 50 || !strings.Contains(r.Msg, "agent start") {
		t.Errorf("STATUS without an agent: %+v", r)
	}
	// An agent that comes back while a container starts or ends fails nothing.
	answer := make(chan cniResult, 1)
	go func() {
		defer close(answer) // also when the test fails in there
		answer <- plugin(t, 1, conf(""), "CNI_COMMAND=DEL", "CNI_CONTAINERID=c2")
	}()
	sp(t, 1, "agent", "start")
	if r := <-answer; r.Code != 0 {
		t.Errorf("DEL while the agent starts: %+v", r)
	}
	healthy(t, 1)
	if r := plugin(t, 1, conf(""), "CNI_COMMAND=STATUS"); r.Code != 0 {
		t.Errorf("STATUS: %+v", r)
	}
	leavesNothing(t, 1, before)
}

// Promise: two networks on one container are two interfaces, both work, and the
// default route is the first's: of those that podman adds, the one that it
// adds first, in an order of its own.
func TestTwoNetworksByCNI(t *testing.T) {
	makeNetwork(t, 1, "two-a", "10.63.0.0/24")
	makeNetwork(t, 1, "two-b", "10.64.0.0/24")
	var peers []string
	podmanReady(t, 1)
	for i, network := range []string{"two-a", "two-b"} {
		cniNetwork(t, 1, network)
		if netavark(t, 1) {
			podmanNetwork(t, 1, network)
		}
		peers = append(peers, connectDoor().enterBy(t, 2, network, fmt.Sprintf("two-%d", i)).ip)
	}
	before := traces(t, 1)

	ns := namespace(t, 1, "tw")
	for i, network := range []string{"two-a", "two-b"} {
		if r := cnitool(t, 1, []string{fmt.Sprintf("CNI_IFNAME=eth%d", i)}, "add", network, ns); r.code != 0 {
			t.Fatal(r.stderr)
		}
	}
	must(t, 1, podmanRun(1, "-d", "--network", "two-a:interface_name=eth0", "--network", "two-b:interface_name=eth1", "--name", "tp", lab.Image, "sleep", "100000")...)
	t.Cleanup(func() { podmanDoor().remove(t, 1, "tp") })
	for name, c := range map[string]struct {
		d     door
		cname string
	}{"cnitool": {cnitoolDoor(), "tw"}, "podman": {podmanDoor(), "tp"}} {
		in := inside{door: c.d, host: 1, cname: c.cname}
		eventually(t, name+" reaches both", func() error { return in.reaches(t, peers...) })
		routes := in.exec(t, 1, in.cname, "ip", "route").stdout
		if name == "cnitool" && !strings.Contains(routes, "default via 10.63.0.1 dev eth0") || strings.Count(routes, "default via ") != 1 {
			t.Errorf("%s: routes\n%s", name, routes)
		}
		for i, subnet := range []string{"10.63.0.", "10.64.0."} {
			if shown := in.exec(t, 1, in.cname, "ip", "-4", "addr", "show", fmt.Sprintf("eth%d", i)).stdout; !strings.Contains(shown, "inet "+subnet) {
				t.Errorf("%s: eth%d lacks an address of %s0/24:\n%s", name, i, subnet, shown)
			}
		}
	}
	podmanDoor().remove(t, 1, "tp")
	for i, network := range []string{"two-b", "two-a"} { // in the other order
		if r := cnitool(t, 1, []string{fmt.Sprintf("CNI_IFNAME=eth%d", 1-i)}, "del", network, ns); r.code != 0 {
			t.Error(r.stderr)
		}
	}
	leavesNothing(t, 1, before)
}

// Promise: the capabilities ips and mac are kept to, whoever asks.
func TestCNIAddressAskedFor(t *testing.T) {
	makeNetwork(t, 1, "cniask", "10.65.0.0/24")
	cniNetwork(t, 1, "cniask")
	podmanReady(t, 1)
	if netavark(t, 1) {
		podmanNetwork(t, 1, "cniask")
	}
	before := traces(t, 1)
	out := must(t, 1, podmanRun(1, "--rm", "--network", "cniask", "--ip", "10.65.0.77", "--mac-address", "02:00:00:00:00:77", lab.Image, "ip", "addr", "show", "eth0")...)
	for _, want := range []string{"inet 10.65.0.77/24", "02:00:00:00:00:77"} {
		if !strings.Contains(out, want) {
			t.Errorf("podman: %q is not in\n%s", want, out)
		}
	}
	ns := namespace(t, 1, "ca")
	for _, env := range []string{`CAP_ARGS={"ips":["10.65.0.78/24"],"mac":"02:00:00:00:00:78"}`, "CNI_ARGS=IP=10.65.0.78;MAC=02:00:00:00:00:78"} {
		r := cnitool(t, 1, []string{env}, "add", "cniask", ns)
		if !strings.Contains(r.stdout, `"10.65.0.78/24"`) || !strings.Contains(r.stdout, "02:00:00:00:00:78") {
			t.Errorf("%s: %s%s", env, r.stdout, r.stderr)
		}
		if r := cnitool(t, 1, []string{env}, "check", "cniask", ns); r.code != 0 {
			t.Errorf("check: %s", r.stderr)
		}
		if r := cnitool(t, 1, nil, "del", "cniask", ns); r.code != 0 {
			t.Error(r.stderr)
		}
	}
	leavesNothing(t, 1, before)
}

// Promise: the plugin works in a chain, before another and after one.
func TestCNIChains(t *testing.T) {
	makeNetwork(t, 1, "cnichain", "10.66.0.0/24")
	sp(t, 1, "cni", "install")
	before := traces(t, 1)
	cniConfig(t, 1, "50-chain.conflist", `{"cniVersion":"1.0.0","name":"chain","plugins":[
		{"type":"loopback"},
		{"type":"socketplane-cni","network":"cnichain"},
		{"type":"tuning","sysctl":{"net.ipv4.conf.eth0.log_martians":"1"}}]}`)
	ns := namespace(t, 1, "ch")
	r := cnitool(t, 1, nil, "add", "chain", ns)
	var got cniResult
	if r.code != 0 {
		t.Fatal(r.stderr)
	}
	decode(t, r.stdout, &got)
	var names []string
	for _, i := range got.Interfaces {
		names = append(names, i.Name)
	}
	if !slices.Contains(names, "lo") || !slices.Contains(names, "eth0") || len(got.IPs) < 2 {
		t.Errorf("the chain's result is %s", r.stdout)
	}
	if r := cnitool(t, 1, nil, "check", "chain", ns); r.code != 0 {
		t.Errorf("check: %s", r.stderr)
	}
	peer := connectDoor().enterBy(t, 2, "cnichain", "chain-peer")
	eventually(t, "it is reached", func() error {
		return peer.reaches(t, strings.Split(got.IPs[len(got.IPs)-1].Address, "/")[0])
	})
	if r := cnitool(t, 1, nil, "del", "chain", ns); r.code != 0 {
		t.Error(r.stderr)
	}
	peer.remove(t, 2, peer.cname)
	leavesNothing(t, 1, before)
}

// Promise: a MAC address that a plugin after ours sets is not taken up, and CHECK
// says so, with what to do.
func TestCNIChainSetsMAC(t *testing.T) {
	makeNetwork(t, 1, "cnimac", "10.97.0.0/24")
	sp(t, 1, "cni", "install")
	before := traces(t, 1)
	cniConfig(t, 1, "50-mac.conflist", `{"cniVersion":"1.0.0","name":"mac","plugins":[
		{"type":"socketplane-cni","network":"cnimac"},
		{"type":"tuning","mac":"02:00:00:00:00:7a"}]}`)
	ns := namespace(t, 1, "cm")
	if r := cnitool(t, 1, nil, "add", "mac", ns); r.code != 0 {
		t.Fatal(r.stderr)
	}
	if r := cnitool(t, 1, nil, "check", "mac", ns); r.code == 0 || !strings.Contains(r.stdout+r.stderr, `capability "mac"`) {
		t.Errorf("check: %d %s%s", r.code, r.stdout, r.stderr)
	}
	// Status and info say so unasked, within seconds, and no more when it has gone.
	says := func(argv ...string) error {
		out := sp(t, 1, argv...)
		if !strings.Contains(out, "02:00:00:00:00:7a") || !strings.Contains(out, `capability "mac"`) {
			return errors.New(out)
		}
		return nil
	}
	eventuallyIn(t, 20*time.Second, "status says so", func() error { return says("agent", "status") })
	if err := says("info"); err != nil {
		t.Errorf("info: %v", err)
	}
	if r := cnitool(t, 1, nil, "del", "mac", ns); r.code != 0 {
		t.Error(r.stderr)
	}
	leavesNothing(t, 1, before)
	eventually(t, "status says no more", func() error {
		if says("agent", "status") == nil {
			return errors.New("it says so still")
		}
		return nil
	})
}

// Promise: published ports work by the plugin's own capability, and by portmap
// after it.
func TestCNIPublishes(t *testing.T) {
	makeNetwork(t, 1, "cniport", "10.67.0.0/24")
	cniNetwork(t, 1, "cniport")
	cniConfig(t, 1, "50-mapped.conflist", `{"cniVersion":"1.0.0","name":"mapped","plugins":[
		{"type":"socketplane-cni","network":"cniport"},
		{"type":"portmap","capabilities":{"portMappings":true}}]}`)
	podmanReady(t, 1)
	before := traces(t, 1)
	for i, config := range []string{"cniport", "mapped"} {
		t.Run(config, func(t *testing.T) {
			ns := namespace(t, 1, "pm")
			port := 8070 + i
			ports := fmt.Sprintf(`CAP_ARGS={"portMappings":[{"hostPort":%d,"containerPort":80,"protocol":"tcp"}]}`, port)
			if r := cnitool(t, 1, []string{ports}, "add", config, ns); r.code != 0 {
				t.Fatal(r.stderr)
			}
			defer func() {
				if r := cnitool(t, 1, []string{ports}, "del", config, ns); r.code != 0 {
					t.Error(r.stderr)
				}
				leavesNothing(t, 1, before)
			}()
			serve := cluster.Host(1).Command(within(t), "ip", "netns", "exec", "pm", "busybox", "httpd", "-f", "-p", "80", "-h", "/etc")
			if err := serve.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = serve.Process.Kill(); _ = serve.Wait() }()
			fetched(t, port)
		})
	}
	t.Run("podman", func(t *testing.T) {
		must(t, 1, podmanRun(1, "-d", "--network", "cniport", "-p", "8072:80", "--name", "pp", lab.Image, "httpd", "-f", "-p", "80", "-h", "/etc")...)
		defer podmanDoor().remove(t, 1, "pp")
		fetched(t, 8072)
	})
	leavesNothing(t, 1, before)
}

// fetched waits until another host gets something over HTTP from a port of host 1.
func fetched(t testing.TB, port int) {
	t.Helper()
	url := fmt.Sprintf("http://%s:%d/hosts", cluster.Host(1).Addr, port)
	eventually(t, "fetch from another host", func() error {
		// Debian's busybox 1.35 crashes with -T.
		if r := try(t, 2, "timeout", "2", "busybox", "wget", "-q", "-O", "-", url); r.code != 0 || r.stdout == "" {
			return errors.New(r.stderr)
		}
		return nil
	})
}
