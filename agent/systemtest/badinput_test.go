package systemtest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// badInput is one command that has to fail.
type badInput struct {
	name string
	argv []string // behind "socketplane"
	code int
	says []string // what its one line has to hold
}

// command splits a line into arguments; what has blanks in it is given as more.
func command(line string, more ...string) []string { return append(strings.Fields(line), more...) }

// refused runs the command on host k and checks how it fails: the exit code, one
// line that says why, and nothing on stdout.
func (b badInput) refused(t *testing.T, k int) {
	t.Helper()
	b.judge(t, try(t, k, append([]string{"socketplane"}, b.argv...)...))
}

func (b badInput) judge(t *testing.T, r result) {
	t.Helper()
	t.Logf("exit %d: %s", r.code, strings.TrimSpace(r.stderr))
	if r.code != b.code {
		t.Errorf("exit code is %d, want %d", r.code, b.code)
	}
	if r.stdout != "" {
		t.Errorf("stdout has %q", r.stdout)
	}
	if strings.Count(r.stderr, "\n") != 1 || !strings.HasSuffix(r.stderr, "\n") || !strings.HasPrefix(r.stderr, "socketplane: ") {
		t.Errorf("stderr is not one line of ours: %q", r.stderr)
	}
	for _, want := range b.says {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("stderr lacks %q: %s", want, r.stderr)
		}
	}
}

// refuseAll runs the cases on host k; each has to leave it as it was.
func refuseAll(t *testing.T, k int, cases []badInput) {
	t.Helper()
	before := traces(t, k)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			c.refused(t, k)
			leavesNothing(t, k, before)
		})
	}
}

// Promise: bad input gives one line with its cause and remedy and the exit code
// that is documented, and leaves nothing behind. This is the names and subnets.
func TestBadNetworks(t *testing.T) {
	makeNetwork(t, 1, "bad", "10.70.0.0/24")
	long := strings.Repeat("x", 65)
	var cases []badInput
	for _, c := range []struct {
		name, subnet string
		code         int
		says         []string
	}{
		{"no CIDR", "10.6.0.0", 2, []string{`"10.6.0.0"`, "not a CIDR", "10.6.0.0/16"}},
		{"a word", "hello", 2, []string{`"hello"`, "not a CIDR"}},
		{"empty", "", 2, []string{`""`, "not a CIDR"}},
		{"mask too long", "10.6.0.0/33", 2, []string{"not a CIDR"}},
		{"leading zero", "010.6.0.0/16", 2, []string{"not a CIDR"}},
		{"line feed", "10.6.0.0/16\n", 2, []string{`"10.6.0.0/16\n"`, "not a CIDR"}},
		{"host bits", "10.6.1.0/16", 2, []string{`"10.6.1.0/16"`, "host bits", "10.6.0.0/16?"}},
		{"/31", "10.6.0.0/31", 2, []string{"10.6.0.0/31", "/30 is the smallest"}},
		{"/32", "10.6.0.0/32", 2, []string{"10.6.0.0/32", "/30 is the smallest"}},
		{"everything", "0.0.0.0/0", 2, []string{"0.0.0.0/0", "/8 is the largest"}},
		{"IPv6", "fd00::/64", 2, []string{"fd00::/64", "IPv4"}},
		{"IPv4 in IPv6", "::ffff:10.6.0.0/112", 2, []string{"IPv4"}},
		{"loopback", "127.0.0.0/8", 2, []string{"127.0.0.0/8", "unicast"}},
		{"link-local", "169.254.0.0/16", 2, []string{"unicast"}},
		{"multicast", "224.0.0.0/8", 2, []string{"unicast"}},
		{"a network inside it", "10.70.0.0/16", 1, []string{`"badx"`, "10.70.0.0/16", `overlaps network "bad" (10.70.0.0/24)`, "choose another or omit it"}},
		{"inside a network", "10.70.0.128/25", 1, []string{"10.70.0.128/25", `overlaps network "bad"`, "choose another"}},
		{"a network's own", "10.70.0.0/24", 1, []string{`overlaps network "bad"`}},
		{"the underlay's route", "198.18.0.0/16", 1, []string{"198.18.0.0/16", "overlaps route 198.18.0.0/24 of host", "choose another"}},
		{"inside Docker's bridge", "172.17.4.0/24", 1, []string{"overlaps route 172.17.0.0/16 of host"}},
		{"Docker's bridge", "172.17.0.0/16", 1, []string{"overlaps route 172.17.0.0/16 of host"}},
	} {
		cases = append(cases, badInput{"subnet/" + c.name, command("network create badx", c.subnet), c.code, c.says})
	}
	cases = append(cases, badInput{"subnet/another one for the same name", command("network create bad 10.72.0.0/16"), 1, []string{`"bad"`, "exists with subnet 10.70.0.0/24"}})
	for _, c := range []struct{ name, id, says string }{
		{"empty", "", "is empty"},
		{"65 characters", long, "65 bytes long; 64 is the most"},
		{"a path", "../x", `"../x"`},
		{"a command", "a;b", `"a;b"`},
		{"a slash", "a/b", `"a/b"`},
		{"dots", "a..b", `"a..b"`},
		{"a blank", "a b", `"a b"`},
		{"a line feed", "a\nb", `"a\nb"`},
		{"a terminal's control", "a\x1b[2J", `\x1b`},
		{"not ASCII", "größe", "may hold only"},
		{"not UTF-8", "a\xff", `\xff`},
	} {
		for _, verb := range []string{"create", "info", "delete"} {
			cases = append(cases, badInput{"name/" + verb + "/" + c.name, command("network "+verb, c.id), 2, []string{"network name", c.says}})
		}
	}
	for _, name := range []string{"bridge", "host", "none"} {
		cases = append(cases, badInput{"name/" + name, command("network create " + name + " 10.72.0.0/16"), 2, []string{name, "reserved by Docker", "choose another"}})
	}
	cases = append(cases,
		badInput{"name/begins with a dash", command("network create -- -x"), 2, []string{`"-x"`, "begins with a letter or digit"}},
		badInput{"unknown/info", command("network info nope"), 1, []string{`network "nope" does not exist`, "socketplane network create nope"}},
		badInput{"unknown/delete", command("network delete nope"), 1, []string{`network "nope" does not exist`}},
	)
	refuseAll(t, 1, cases)

	key := "hosts/" + strings.TrimSpace(must(t, 3, "cat", "/var/lib/socketplane/host-id"))
	eventually(t, "h3 tells its route", func() error { // a record is looked at each 10 s
		if record := kv(t, "hosts/")[key]; !strings.Contains(record, onlyOn3) {
			return errors.New(record)
		}
		return nil
	})
	refuseAll(t, 1, []badInput{
		{"subnet/a route of another host alone", command("network create badx 10.71.4.0/24"), 1, []string{`"badx"`, `overlaps route ` + onlyOn3 + ` of host "h3"`, "choose another or omit it"}},
	})
}

// Promise: the same for how a command is written.
func TestBadUsage(t *testing.T) {
	refuseAll(t, 1, []badInput{
		{"unknown command", command("frobnicate"), 2, []string{`"frobnicate"`, "socketplane --help"}},
		{"unknown subcommand", command("network frobnicate"), 2, []string{`"frobnicate"`, "socketplane network --help"}},
		{"unknown flag", command("network list --frob"), 2, []string{"--frob", "--help"}},
		{"unknown short flag", command("info -z"), 2, []string{"z", "--help"}},
		{"unknown global flag", command("--frob network list"), 2, []string{"--frob", "--help"}},
		{"unknown format", command("network list -o yaml"), 2, []string{"yaml", "table or json"}},
		{"create without a name", command("network create"), 2, []string{"too few arguments", "network create NAME [CIDR]"}},
		{"create with too much", command("network create a 10.6.0.0/16 b"), 2, []string{"too many arguments", `"b"`}},
		{"delete without a name", command("network delete"), 2, []string{"too few arguments"}},
		{"connect without a namespace", command("connect --id x"), 2, []string{"--netns is missing", "usage: socketplane connect"}},
		{"connect without an id", command("connect --netns /run/netns/x"), 2, []string{"--id is missing"}},
		{"a flag without its value", command("connect --id"), 2, []string{"--id"}},
		{"disconnect without an id", command("disconnect"), 2, []string{"too few arguments", "disconnect ID"}},
		{"rm without a container", command("rm"), 2, []string{"no container is named"}},
		{"run without an image", command("run -d"), 125, []string{"no image is named"}},
		{"run with a flag that lacks its value", command("run -n"), 125, []string{"-n needs a value"}},
		{"run with an empty address", command("run --ip= " + lab.Image + " true"), 125, []string{"--ip needs an address"}},
		{"run with Docker's own network", command("run --net host " + lab.Image + " true"), 125, []string{"--net cannot be used", "-n NETWORK"}},
		{"run with another runtime", command("run --runtime runc " + lab.Image + " true"), 125, []string{"--runtime cannot be used"}},
		{"logs of a negative length", command("agent logs -n -1"), 2, []string{"negative"}},
	})
}

// Promise: the same for endpoints: networks, addresses, ids, interface names and
// namespaces that cannot be.
func TestBadEndpoints(t *testing.T) {
	makeNetwork(t, 1, "ends", "10.73.0.0/24")
	makeNetwork(t, 1, "other", "10.74.0.0/24")
	makeNetwork(t, 1, "tiny", "10.75.0.0/29")
	free := namespace(t, 1, "bad-free")
	full := namespace(t, 1, "bad-full")
	must(t, 1, "ip", "-n", "bad-full", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
	connect := func(network, id, ns string, more ...string) []string {
		return append([]string{"connect", "-n", network, "--id", id, "--netns", ns}, more...)
	}
	join := func(network, id, ns string, more ...string) {
		t.Helper()
		sp(t, 1, connect(network, id, ns, more...)...)
		t.Cleanup(func() { sp(t, 1, "disconnect", id) })
	}
	join("ends", "bad-here", namespace(t, 1, "bad-here"), "--ip", "10.73.0.9")
	join("other", "bad-there", namespace(t, 1, "bad-there"))
	tiny := namespace(t, 1, "bad-tiny")
	for _, id := range []string{"t2", "t3", "t4", "t5", "t6"} {
		join("tiny", id, tiny, "--ifname", id)
	}

	var cases []badInput
	for _, c := range []struct {
		name, ip string
		code     int
		says     []string
	}{
		{"no address", "hello", 2, []string{`"hello"`, "not an IPv4 address"}},
		{"IPv6", "fd00::1", 2, []string{`"fd00::1"`, "not an IPv4 address"}},
		{"with a mask", "10.73.0.8/24", 2, []string{"not an IPv4 address"}},
		{"outside", "10.99.0.9", 1, []string{`network "ends"`, "10.99.0.9", "10.73.0.0/24", "choose another"}},
		{"taken", "10.73.0.9", 1, []string{`network "ends"`, "10.73.0.9", `taken by "bad-here" on host "h1"`, "choose another"}},
		{"the gateway's", "10.73.0.1", 1, []string{`network "ends"`, "10.73.0.1", "gateway", "choose another"}},
		{"the network's", "10.73.0.0", 1, []string{"10.73.0.0", "network address"}},
		{"the broadcast's", "10.73.0.255", 1, []string{"10.73.0.255", "broadcast"}},
	} {
		cases = append(cases, badInput{"connect/address/" + c.name, connect("ends", "x", free, "--ip", c.ip), c.code, c.says})
		cases = append(cases, badInput{"run/address/" + c.name, command("run --rm -n ends --ip " + c.ip + " " + lab.Image + " true"), 125, c.says})
	}
	for _, c := range []struct {
		name, network string
		code          int
		says          []string
	}{
		{"unknown", "nope", 1, []string{`network "nope" does not exist`, "socketplane network create nope"}},
		{"a path", "../x", 2, []string{`"../x"`}},
		{"a command", "a;b", 2, []string{`"a;b"`}},
		{"Docker's", "host", 2, []string{"host", "reserved"}},
		{"65 characters", strings.Repeat("x", 65), 2, []string{"64 is the most"}},
		{"full", "tiny", 1, []string{`network "tiny"`, "10.75.0.0/29", "no address is free", "a larger network"}},
	} {
		cases = append(cases, badInput{"connect/network/" + c.name, connect(c.network, "x", free), c.code, c.says})
		cases = append(cases, badInput{"run/network/" + c.name, command("run --rm -n " + c.network + " " + lab.Image + " true"), 125, c.says})
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	must(t, 1, "mkfifo", fifo)
	// What works is not lost to a request that cannot be.
	for _, path := range []string{"/etc/passwd", "/run/netns/nope", "/proc/1/ns/net", full} {
		cases = append(cases, badInput{"namespace/of one that is connected/" + strings.ReplaceAll(path, "/", "-"), connect("ends", "bad-here", path), 2, []string{path}})
		if path == full {
			cases[len(cases)-1].code = 1
		}
	}
	for _, c := range []struct {
		name, path string
		code       int
		says       []string
	}{
		{"missing", "/run/netns/nope", 2, []string{`"/run/netns/nope"`, "no such file", "give a path like"}},
		{"a regular file", "/etc/passwd", 2, []string{"/etc/passwd", "not a network namespace", "give a path like"}},
		{"a directory", "/run", 2, []string{"not a network namespace"}},
		{"a device", "/dev/zero", 2, []string{"not a network namespace"}},
		{"a fifo", fifo, 2, []string{"not a network namespace"}},
		{"another kind of namespace", "/proc/1/ns/mnt", 2, []string{"not a network namespace"}},
		{"the host's own", "/proc/1/ns/net", 2, []string{"host's own"}},
		{"relative and missing", "nope", 2, []string{`"/nope"`, "no such file"}},
		{"empty", "", 2, []string{"--netns"}},
	} {
		cases = append(cases, badInput{"namespace/" + c.name, connect("ends", "x", c.path), c.code, c.says})
	}
	cases = append(cases,
		badInput{"interface/too long", connect("ends", "x", free, "--ifname", "sixteen-letters-"), 2, []string{"sixteen-letters-", "15"}},
		badInput{"interface/lo", connect("ends", "x", free, "--ifname", "lo"), 2, []string{`"lo"`}},
		badInput{"interface/empty", connect("ends", "x", free, "--ifname", ""), 2, []string{"interface name"}},
		badInput{"interface/a slash", connect("ends", "x", free, "--ifname", "a/b"), 2, []string{`"a/b"`}},
		badInput{"interface/is there", connect("ends", "x", full), 1, []string{"eth0", "already"}},
		badInput{"id/empty", connect("ends", "", free), 2, []string{"id is empty"}},
		badInput{"id/65 characters", connect("ends", strings.Repeat("x", 65), free), 2, []string{"64 is the most"}},
		badInput{"id/a path", connect("ends", "../x", free), 2, []string{`"../x"`}},
		badInput{"id/on another network", connect("other", "bad-here", free), 1, []string{"bad-here", `network "ends" already`, "disconnect"}},
		badInput{"id/has another address", connect("ends", "bad-here", free, "--ip", "10.73.0.10"), 1, []string{"bad-here", "10.73.0.9 already"}},
		badInput{"delete in use", command("network delete ends"), 1, []string{`network "ends" has 1 endpoint on host h1`, "remove them first"}},
		badInput{"disconnect unknown", command("disconnect nope"), 1, []string{`"nope"`, "socketplane info"}},
		badInput{"disconnect half an id", command("disconnect bad-her"), 1, []string{`"bad-her"`, "bad-here"}},
		badInput{"info unknown", command("info nope"), 1, []string{`"nope"`}},
		badInput{"info bad", command("info ../x"), 2, []string{`"../x"`}},
		badInput{"info could be two", command("info bad-"), 2, []string{`"bad-"`, "2"}},
	)
	refuseAll(t, 1, cases)
	for ns, want := range map[string]int{"bad-free": 1, "bad-full": 3} {
		if links := must(t, 1, "ip", "-n", ns, "-br", "link"); strings.Count(links, "\n") != want {
			t.Errorf("something is left in %s:\n%s", ns, links)
		}
	}
}

// Promise: an unknown key or a bad value in the settings file is an error that
// names the file and the line or the key.
func TestBadSettings(t *testing.T) {
	var cases []badInput
	for _, c := range []struct {
		name, text string
		says       []string
	}{
		{"unknown key", "[host]\nname = \"h1\"\ncolour = \"red\"\n", []string{"FILE:3:", `"host.colour"`, "--print-config"}},
		{"unknown table", "[host]\n[hots]\nname = \"h1\"\n", []string{"FILE:2:", "hots"}},
		{"wrong type", "[host]\n\nname = 5\n", []string{"FILE:3:", "name", "integer into a string"}},
		{"not TOML", "[host\nname = 5\n", []string{"FILE:1:"}},
		{"twice", "[host]\nname = \"a\"\nname = \"b\"\n", []string{"FILE", "name"}},
		{"a bad URL", "[consul]\naddress = \"ftp://x\"\n", []string{"consul.address", "FILE", `"ftp://x"`, "http://127.0.0.1:8500"}},
		{"too short a session", "[cluster]\nsession_ttl = \"1s\"\n", []string{"cluster.session_ttl", "FILE", "10s"}},
		{"no duration", "[cluster]\nsession_ttl = \"soon\"\n", []string{"FILE:2:", "soon"}},
		{"unknown datapath", "[ovs]\ndatapath = \"quantum\"\n", []string{"ovs.datapath", `"quantum"`, "netdev"}},
		{"too long a bridge", "[ovs]\nbridge = \"sixteen-letters-\"\n", []string{"ovs.bridge", "15"}},
		{"relative socket", "[api]\nsocket = \"x.sock\"\n", []string{"api.socket", "absolute"}},
		{"half of a certificate", "[consul]\ncert_file = \"/x\"\n", []string{"consul.key_file", "both"}},
	} {
		file := filepath.Join(t.TempDir(), "socketplane.toml")
		if err := os.WriteFile(file, []byte(c.text), 0o644); err != nil {
			t.Fatal(err)
		}
		says := append([]string{}, c.says...)
		for i := range says {
			says[i] = strings.ReplaceAll(says[i], "FILE", file)
		}
		for verb, code := range map[string]int{"network list": 2, "agent run": 2, "agent start": 2, "run " + lab.Image: 125} {
			// Flags stand before the image.
			argv := append(append([]string{}, strings.Fields(verb)[0], "--config", file), strings.Fields(verb)[1:]...)
			if verb != "run "+lab.Image {
				argv = append([]string{"--config", file}, strings.Fields(verb)...)
			}
			cases = append(cases, badInput{c.name + "/" + strings.ReplaceAll(verb, " ", "-"), argv, code, says})
		}
	}
	cases = append(cases, badInput{"no such file", command("--config /nope.toml network list"), 2, []string{"/nope.toml", "no such file"}})
	refuseAll(t, 1, cases)

	before := traces(t, 1)
	for _, c := range []struct {
		name, variable string
		says           string
	}{
		{"a bad variable", "SOCKETPLANE_CLUSTER_SESSION_TTL=1s", "SOCKETPLANE_CLUSTER_SESSION_TTL"},
		{"a variable of the wrong kind", "SOCKETPLANE_DOCKER_ENABLED=perhaps", "SOCKETPLANE_DOCKER_ENABLED"},
	} {
		t.Run(c.name, func(t *testing.T) {
			badInput{code: 2, says: []string{c.says}}.judge(t, try(t, 1, "env", c.variable, "socketplane", "agent", "run"))
			leavesNothing(t, 1, before)
		})
	}
}
