package driver

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/docker"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/state/statetest"
)

// choosing is an agent with a catalog of networks that is real.
type choosing struct {
	*agent
	catalog *network.Manager
}

func (c choosing) ReserveSubnet(ctx context.Context, subnet netip.Prefix) (netip.Prefix, error) {
	return c.catalog.Reserve(ctx, subnet)
}

func (c choosing) KeepSubnets(ctx context.Context, subnets []netip.Prefix) error {
	return c.catalog.Keep(ctx, subnets)
}

func (c choosing) Networks(ctx context.Context) ([]api.Network, error) {
	var list []api.Network
	records, _, err := c.catalog.List(ctx)
	for _, r := range records {
		list = append(list, api.Network{ID: r.ID, Subnet: r.Subnet, Gateway: r.Gateway, ByDocker: r.ByDocker})
	}
	return list, err
}

func (c choosing) CreateNetwork(ctx context.Context, req api.CreateNetworkRequest) (api.Network, error) {
	spec := network.Spec{Name: req.ID, ByDocker: req.ByDocker, DryRun: req.DryRun, Docker: req.Docker}
	if req.Subnet != "" {
		spec.Subnet = netip.MustParsePrefix(req.Subnet)
	}
	r, _, err := c.catalog.Create(ctx, spec)
	return api.Network{ID: r.ID, Subnet: r.Subnet, ByDocker: r.ByDocker}, err
}

// TestMadeAtOnce: networks without a subnet that Docker makes at the same moment on
// two hosts get one each, while it is still to tell their names.
func TestMadeAtOnce(t *testing.T) {
	store := statetest.New()
	alive := func(context.Context) (map[string]bool, error) { return map[string]bool{"h1": true, "h2": true}, nil }
	var drivers []*Driver
	for _, host := range []string{"h1", "h2"} {
		d := newTestDriver(nil)
		d.Service = choosing{&agent{}, network.New(network.Config{Store: store, Host: host, Alive: alive})}
		drivers = append(drivers, d)
	}
	const each = 5
	var all sync.WaitGroup
	for i, d := range drivers {
		for k := range each {
			all.Go(func() {
				status, pool := call(t, d.Handler(), "IpamDriver.RequestPool", `{"AddressSpace":"socketplane"}`)
				if status != http.StatusOK {
					t.Error(pool["Err"])
					return
				}
				subnet, gateway := pool["Pool"].(string), strings.Replace(pool["Pool"].(string), ".0.0/", ".0.1/", 1)
				status, answer := call(t, d.Handler(), "NetworkDriver.CreateNetwork", fmt.Sprintf(
					`{"NetworkID":"n%d-%d","IPv4Data":[{"AddressSpace":"socketplane","Pool":%q,"Gateway":%q}]}`, i, k, subnet, gateway))
				if status != http.StatusOK {
					t.Error(answer["Err"])
				}
			})
		}
	}
	all.Wait()
	for i, d := range drivers {
		for k := range each {
			id := fmt.Sprintf("n%d-%d", i, k)
			w, ok := d.known.awaited(id)
			if !ok {
				t.Fatalf("%s does not wait for its name", id)
			}
			if err := d.named(t.Context(), nil, docker.Network{ID: id, Name: id}, w); err != nil {
				t.Error(err)
			}
		}
		if err := d.keepReserved(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if networks, err := drivers[0].Service.Networks(t.Context()); err != nil || len(networks) != 2*each {
		t.Errorf("%d networks: %v %v", len(networks), networks, err)
	}
	if left, err := store.List(t.Context(), network.ReservationsPrefix); err != nil || len(left) != 0 {
		t.Errorf("still reserved: %v %v", left, err)
	}
}

// TestNotMade: the subnet of a network that Docker could not make is free at once; not
// that of one in the making, when Docker gives back the same subnet of an older network.
func TestNotMade(t *testing.T) {
	store := statetest.New()
	d := newTestDriver(nil)
	d.Service = choosing{&agent{}, network.New(network.Config{Store: store})}
	reserved := func() []state.Entry {
		t.Helper()
		if err := d.keepReserved(t.Context()); err != nil {
			t.Fatal(err)
		}
		list, err := store.List(t.Context(), network.ReservationsPrefix)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	call(t, d.Handler(), "IpamDriver.RequestPool", `{"Pool":"10.6.0.0/24"}`)
	if got := reserved(); len(got) != 1 {
		t.Errorf("while Docker makes it: %v", got)
	}
	call(t, d.Handler(), "IpamDriver.ReleasePool", `{"PoolID":"10.6.0.0/24"}`)
	if got := reserved(); len(got) != 0 {
		t.Errorf("after it could not: %v", got)
	}
	_, pool := call(t, d.Handler(), "IpamDriver.RequestPool", `{"Pool":"10.6.0.0/24","SubPool":"10.6.0.128/25"}`)
	call(t, d.Handler(), "IpamDriver.ReleasePool", fmt.Sprintf(`{"PoolID":%q}`, pool["PoolID"]))
	if got := reserved(); len(got) != 0 {
		t.Errorf("after it could not, with a range: %v", got)
	}
	d.known.bind("old", "old", netip.MustParsePrefix("10.6.0.0/24"))
	call(t, d.Handler(), "NetworkDriver.DeleteNetwork", `{"NetworkID":"old"}`)
	call(t, d.Handler(), "IpamDriver.RequestPool", `{"Pool":"10.6.0.0/24"}`)
	call(t, d.Handler(), "IpamDriver.ReleasePool", `{"PoolID":"10.6.0.0/24"}`)
	if got := reserved(); len(got) != 1 {
		t.Errorf("after Docker gave back an older network's: %v", got)
	}
}

// changing gives another subnet up while the cluster is told what to keep.
type changing struct {
	*agent
	meanwhile func()
}

func (c *changing) KeepSubnets(ctx context.Context, subnets []netip.Prefix) error {
	c.meanwhile()
	c.meanwhile = func() {}
	return c.agent.KeepSubnets(ctx, subnets)
}

// TestGivenUpMeanwhile: a subnet that is given up while the cluster is told of others
// is given up the next time.
func TestGivenUpMeanwhile(t *testing.T) {
	a := &agent{}
	d := newTestDriver(nil)
	subnet := netip.MustParsePrefix("10.6.0.0/24")
	d.Service = &changing{a, func() { d.unreserve(subnet) }}
	if _, err := d.reserve(t.Context(), subnet); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := d.keepReserved(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(a.kept) != 0 {
		t.Errorf("kept: %v", a.kept)
	}
}

// TestSubnetHere: a subnet of a network that Docker here has is refused. Where Docker
// does not have it yet, or has it no more, a user may make the same network.
func TestSubnetHere(t *testing.T) {
	a := &agent{networks: []api.Network{aNetwork("foo", "10.6.0.0/24")}}
	d := newTestDriver(a)
	if status, answer := call(t, d.Handler(), "IpamDriver.RequestPool", `{"Pool":"10.6.0.0/24"}`); status != http.StatusOK || len(a.asked) > 0 {
		t.Errorf("%d %v, asked %q", status, answer, a.asked)
	}
	d.known.bind("n1", "foo", netip.MustParsePrefix("10.6.0.0/24"))
	status, answer := call(t, d.Handler(), "IpamDriver.RequestPool", `{"Pool":"10.6.0.0/24"}`)
	if said, _ := answer["Err"].(string); status == http.StatusOK || !strings.Contains(said, `is that of network "foo"`) {
		t.Errorf("%d %v", status, answer)
	}
}

// silent is a dockerd that answers nothing.
type silent struct{}

func (silent) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// TestReservedWithoutDocker: what is reserved for a network that Docker was making is
// free after its time, also where Docker never answers again. So is what an earlier
// life of the agent has reserved.
func TestReservedWithoutDocker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := statetest.New()
		catalog := func() *network.Manager { return network.New(network.Config{Store: store, Host: "h1"}) }
		if _, err := catalog().Reserve(t.Context(), netip.MustParsePrefix("10.7.0.0/24")); err != nil {
			t.Fatal(err)
		}
		d := newTestDriver(nil)
		d.Service = choosing{&agent{}, catalog()}
		call(t, d.Handler(), "IpamDriver.RequestPool", `{"Pool":"10.6.0.0/24"}`)
		engine, err := docker.DialOver(silent{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); d.follow(ctx, engine) }()
		reserved := func() (keys []string) {
			list, err := store.List(t.Context(), network.ReservationsPrefix)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range list {
				keys = append(keys, strings.TrimPrefix(e.Key, network.ReservationsPrefix))
			}
			return keys
		}
		time.Sleep(reserveTime / 2)
		if got := reserved(); !slices.Equal(got, []string{"10.6.0.0-24"}) {
			t.Errorf("while Docker may still make it: %q", got)
		}
		time.Sleep(reserveTime/2 + syncTimeout + 2*syncRetry)
		if got := reserved(); len(got) != 0 {
			t.Errorf("after its time: %q", got)
		}
		cancel()
		<-ended
	})
}
