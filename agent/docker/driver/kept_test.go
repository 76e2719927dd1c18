package driver

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/docker"
)

// asks is a container in Docker's list that asks for an address by name.
func asks(id, name, network, ip, endpoint string) map[string]any {
	return map[string]any{"Id": id, "Names": []string{"/" + name}, "NetworkSettings": map[string]any{"Networks": map[string]any{
		network: map[string]any{"NetworkID": "n1", "EndpointID": endpoint, "IPAMConfig": map[string]string{"IPv4Address": ip}},
	}}}
}

func aKeptDockerd() *dockerd {
	return &dockerd{
		networks:  []map[string]any{dockersNetwork("n1", "web", "10.6.0.0/24", nil), {"Id": "n2", "Name": "bridge", "Driver": "bridge"}},
		endpoints: map[string]map[string]string{},
	}
}

func driven(id, ip string, attached bool) api.Endpoint {
	return api.Endpoint{
		ID: id, ContainerID: id, Source: api.SourceDriver, Network: "web", IP: netip.MustParseAddr(ip), PrefixLen: 24, Attached: attached,
	}
}

// TestKept: the address that a container asked for by name stays its own while the
// container is stopped, and goes when Docker has no such container any more.
func TestKept(t *testing.T) {
	a := &agent{networks: []api.Network{aNetwork("web", "10.6.0.0/24")}}
	d := newTestDriver(a)
	d.known.setPools(map[netip.Prefix]string{netip.MustParsePrefix("10.6.0.0/24"): "web"})
	there := aKeptDockerd()
	engine := there.engine(t)
	ok := func(method, body string) {
		t.Helper()
		if status, answer := call(t, d.Handler(), method, body); status != 200 {
			t.Fatalf("%s %s: %v", method, body, answer)
		}
	}
	ok("IpamDriver.RequestAddress", `{"PoolID":"10.6.0.0/24","Address":"10.6.0.9"}`)
	ok("NetworkDriver.CreateEndpoint", `{"NetworkID":"n1","EndpointID":"e","Interface":{"Address":"10.6.0.9/24"}}`)
	ok("NetworkDriver.Join", `{"NetworkID":"n1","EndpointID":"e","SandboxKey":"/x"}`)
	// docker stop
	ok("NetworkDriver.DeleteEndpoint", `{"NetworkID":"n1","EndpointID":"e"}`)
	a.endpoints = []api.Endpoint{driven("e", "10.6.0.9", false), driven("dynamic", "10.6.0.2", false)}
	ok("IpamDriver.ReleaseAddress", `{"PoolID":"10.6.0.0/24","Address":"10.6.0.9"}`)
	ok("IpamDriver.ReleaseAddress", `{"PoolID":"10.6.0.0/24","Address":"10.6.0.2"}`)
	there.list = []map[string]any{asks("c", "fixed", "web", "10.6.0.9", "")}
	for range 2 {
		if err := d.compareKept(t.Context(), engine); err != nil {
			t.Fatal(err)
		}
		if err := d.Sweep(t.Context(), engine); err != nil { // "dynamic" is unknown to it, and goes
			t.Fatal(err)
		}
	}
	if slices.Contains(a.asked, "release e") || !slices.Contains(a.asked, "release dynamic") || !slices.Contains(a.asked, "describe e c fixed") {
		t.Errorf("asked %q", a.asked)
	}
	// docker rename
	there.list = []map[string]any{asks("c", "renamed", "web", "10.6.0.9", "")}
	if err := d.Event(t.Context(), engine, docker.Event{Kind: docker.ContainerRenamed, ID: "c", Name: "renamed"}); err != nil {
		t.Fatal(err)
	}
	<-d.kept.wake
	if err := d.compareKept(t.Context(), engine); err != nil {
		t.Fatal(err)
	}
	if want := "describe e c renamed"; !slices.Contains(a.asked, want) {
		t.Errorf("asked %q, want %q", a.asked, want)
	}
	// docker start
	ok("IpamDriver.RequestAddress", `{"PoolID":"10.6.0.0/24","Address":"10.6.0.9"}`)
	if want := "hold web 10.6.0.9 from e"; !slices.Contains(a.asked, want) {
		t.Errorf("asked %q, want %q", a.asked, want)
	}
	// docker rm
	there.list = nil
	if err := d.Event(t.Context(), engine, docker.Event{Kind: docker.ContainerRemoved, ID: "c"}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-d.kept.wake:
	default:
		t.Fatal("the container's end woke nobody")
	}
	if err := d.compareKept(t.Context(), engine); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(a.asked, "release e") || d.kept.ended("e") {
		t.Errorf("asked %q", a.asked)
	}
}

// TestKeptAcrossRestarts: what an agent that has just begun learns of Docker.
func TestKeptAcrossRestarts(t *testing.T) {
	for name, tt := range map[string]struct {
		endpoint api.Endpoint
		docker   map[string]string // endpoints of the network
		list     []map[string]any
		asked    string
		kept     bool // after the sweep
		ends     bool // Docker giving its address back would keep it
	}{
		"stopped":               {driven("e", "10.6.0.9", false), nil, []map[string]any{asks("c", "fixed", "web", "10.6.0.9", "")}, "detach e", true, true},
		"stopped, by id":        {driven("e", "10.6.0.9", false), nil, []map[string]any{asks("c", "fixed", "n1", "10.6.0.9", "")}, "detach e", true, true},
		"died with dockerd":     {driven("e", "10.6.0.9", true), nil, []map[string]any{asks("c", "fixed", "web", "10.6.0.9", "e")}, "detach e", true, true},
		"runs":                  {driven("e", "10.6.0.9", true), map[string]string{"e": "c"}, []map[string]any{asks("c", "fixed", "web", "10.6.0.9", "e")}, "", false, true},
		"runs, dynamic":         {driven("e", "10.6.0.9", true), map[string]string{"e": "c"}, nil, "", false, false},
		"removed":               {driven("e", "10.6.0.9", false), nil, []map[string]any{asks("c", "fixed", "web", "10.6.0.8", "f")}, "release e", false, false},
		"runs on another one":   {driven("e", "10.6.0.9", false), nil, []map[string]any{asks("c", "fixed", "web", "10.6.0.9", "f")}, "release e", false, false},
		"of an unknown network": {driven("e", "10.6.0.9", false), nil, []map[string]any{{"Id": "c"}}, "release e", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			a := &agent{endpoints: []api.Endpoint{tt.endpoint}}
			d := newTestDriver(a)
			there := aKeptDockerd()
			there.endpoints["n1"], there.list = tt.docker, tt.list
			engine := there.engine(t)
			for range 2 { // what a container says of itself may be ahead of Docker's networks
				if err := d.Sweep(t.Context(), engine); err != nil {
					t.Fatal(err)
				}
				a.asked = slices.Compact(a.asked)
				for id := range d.doubted {
					d.doubted[id] = time.Now().Add(-time.Minute)
				}
			}
			if got := fmt.Sprint(a.asked); tt.asked == "" && len(a.asked) > 0 || tt.asked != "" && got != "["+tt.asked+"]" {
				t.Errorf("asked %s, want %q", got, tt.asked)
			}
			if got := d.kept.ended("e"); got != tt.kept {
				t.Errorf("kept: %v", got)
			}
			if got := d.kept.end("e"); got != tt.ends {
				t.Errorf("would be kept: %v", got)
			}
		})
	}
}

// TestKeptNetworkRemoved: Docker removes a network that only stopped containers
// name; their addresses do not hold it.
func TestKeptNetworkRemoved(t *testing.T) {
	web := aNetwork("web", "10.6.0.0/24")
	web.ByDocker = true
	a := &agent{networks: []api.Network{web}, endpoints: []api.Endpoint{driven("e", "10.6.0.9", false), onNetwork("shop", driven("f", "10.6.0.9", false))}}
	d := newTestDriver(a)
	d.known.bind("n1", "web", web.Subnet)
	d.kept.name("e")
	d.kept.end("e")
	if status, answer := call(t, d.Handler(), "NetworkDriver.DeleteNetwork", `{"NetworkID":"n1"}`); status != 200 {
		t.Fatal(answer)
	}
	if want := []string{"release e", "delete web"}; !slices.Equal(a.asked, want) {
		t.Errorf("asked %q, want %q", a.asked, want)
	}

	// One that came again with another subnet stays, with what is kept there. So does
	// one that was not made through Docker.
	a.asked = nil
	d.known.bind("n3", "web", netip.MustParsePrefix("10.7.0.0/24"))
	d.kept.name("e")
	d.kept.end("e")
	if status, answer := call(t, d.Handler(), "NetworkDriver.DeleteNetwork", `{"NetworkID":"n3"}`); status == 200 || len(a.asked) > 0 {
		t.Errorf("%d %v, asked %q", status, answer, a.asked)
	}
	web.ByDocker, a.asked = false, nil
	a.networks = []api.Network{web}
	d.known.bind("n2", "web", web.Subnet)
	d.kept.name("e")
	d.kept.end("e")
	if status, answer := call(t, d.Handler(), "NetworkDriver.DeleteNetwork", `{"NetworkID":"n2"}`); status == 200 || len(a.asked) > 0 {
		t.Errorf("%d %v, asked %q", status, answer, a.asked)
	}
}

// TestKeptNetworkStays: a network that another host uses is not deleted, and what
// stopped containers keep there is still kept.
func TestKeptNetworkStays(t *testing.T) {
	web := aNetwork("web", "10.6.0.0/24")
	web.ByDocker = true
	a := &agent{networks: []api.Network{web}, endpoints: []api.Endpoint{driven("e", "10.6.0.9", false)}, elsewhere: true}
	d := newTestDriver(a)
	d.known.bind("n1", "web", web.Subnet)
	d.kept.name("e")
	d.kept.end("e")
	status, answer := call(t, d.Handler(), "NetworkDriver.DeleteNetwork", `{"NetworkID":"n1"}`)
	if said, _ := answer["Err"].(string); status == 200 || !strings.Contains(said, "in use") || len(a.asked) > 0 {
		t.Errorf("%d %v, asked %q", status, answer, a.asked)
	}
	if !d.kept.ended("e") {
		t.Error("the endpoint is not kept any more")
	}
}

func onNetwork(network string, e api.Endpoint) api.Endpoint {
	e.Network = network
	return e
}

// TestKeptBesideOthers: a network that something else on this host is on stays, with
// what is kept there.
func TestKeptBesideOthers(t *testing.T) {
	web := aNetwork("web", "10.6.0.0/24")
	web.ByDocker = true
	a := &agent{networks: []api.Network{web}, endpoints: []api.Endpoint{driven("e", "10.6.0.9", false), driven("f", "10.6.0.8", true)}}
	d := newTestDriver(a)
	d.known.bind("n1", "web", web.Subnet)
	d.kept.name("e")
	d.kept.end("e")
	call(t, d.Handler(), "NetworkDriver.DeleteNetwork", `{"NetworkID":"n1"}`)
	if slices.Contains(a.asked, "release e") {
		t.Errorf("asked %q", a.asked)
	}
}
