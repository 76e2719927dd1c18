package network_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/state/statetest"
)

var noSubnet netip.Prefix

func prefix(s string) netip.Prefix {
	if s == "" {
		return noSubnet
	}
	return netip.MustParsePrefix(s)
}

func routes(on string, prefixes ...string) func(context.Context) ([]network.HostRoute, error) {
	var all []network.HostRoute
	for _, p := range prefixes {
		all = append(all, network.HostRoute{Host: on, Prefix: prefix(p)})
	}
	return func(context.Context) ([]network.HostRoute, error) { return all, nil }
}

func mustCreate(t *testing.T, m *network.Manager, name, subnet string) network.Record {
	t.Helper()
	rec, _, err := m.Create(t.Context(), network.Spec{Name: name, Subnet: prefix(subnet)})
	if err != nil {
		t.Fatalf("Create(%s, %s): %v", name, subnet, err)
	}
	return rec
}

func TestCreate(t *testing.T) {
	eachStore(t, func(t *testing.T, store state.Store) {
		m := network.New(network.Config{Store: store})
		got, created, err := m.Create(t.Context(), network.Spec{Name: "foo4", Subnet: prefix("10.6.0.0/16")})
		if err != nil || !created {
			t.Fatalf("Create = %v, %v", created, err)
		}
		want := network.Record{
			ID: "foo4", Subnet: prefix("10.6.0.0/16"), Gateway: netip.MustParseAddr("10.6.0.1"), VLAN: 1, VNI: 10001, Version: got.Version,
		}
		equal := cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})
		if diff := cmp.Diff(want, got, equal); diff != "" || got.Version == 0 {
			t.Error(diff, got.Version)
		}
		for _, subnet := range []string{"10.6.0.0/16", ""} {
			again, created, err := m.Create(t.Context(), network.Spec{Name: "foo4", Subnet: prefix(subnet)})
			if err != nil || created || again != got {
				t.Errorf("Create again with %q = %v, %v, %v", subnet, again, created, err)
			}
		}
		stored, err := m.Get(t.Context(), "foo4")
		if err != nil || stored != got {
			t.Errorf("Get = %v, %v", stored, err)
		}
		if second := mustCreate(t, m, "bar", ""); second.VLAN != 2 || second.Subnet != prefix("10.1.0.0/16") {
			t.Errorf("second network is %+v, want VLAN 2 and 10.1.0.0/16", second)
		}
		all, bad, err := m.List(t.Context())
		if err != nil || len(bad) != 0 || len(all) != 2 || all[0].ID != "bar" || all[1] != got {
			t.Errorf("List = %v, %v, %v", all, bad, err)
		}
		if err := m.Delete(t.Context(), "foo4"); err != nil {
			t.Fatal(err)
		}
		if third := mustCreate(t, m, "third", "10.6.0.0/17"); third.VLAN != 1 {
			t.Errorf("VLAN is %d, want the 1 that became free", third.VLAN)
		}
	})
}

func TestCreateRefused(t *testing.T) {
	store := statetest.New()
	m := network.New(network.Config{Store: store, Routes: routes("h2", "0.0.0.0/0", "128.0.0.0/1", "0.0.0.0/1", "::/0", "172.17.0.0/16", "10.200.1.0/24")})
	mustCreate(t, m, "web", "10.6.128.0/17")
	mustCreate(t, m, "big", "10.8.0.0/13")
	before := keys(t, store)
	for _, c := range []struct {
		name, subnet string
		want         error
		text         string
	}{
		{"foo4", "10.6.0.0/16", network.ErrOverlap, `network "foo4": subnet 10.6.0.0/16 overlaps network "web" (10.6.128.0/17); choose another or omit it`},
		{"foo4", "10.9.7.0/24", network.ErrOverlap, `network "foo4": subnet 10.9.7.0/24 overlaps network "big" (10.8.0.0/13); choose another or omit it`},
		{"foo4", "10.6.128.0/17", network.ErrOverlap, ""},
		{"foo4", "172.17.4.0/24", network.ErrOverlap, `network "foo4": subnet 172.17.4.0/24 overlaps route 172.17.0.0/16 of host "h2"; choose another or omit it`},
		{"foo4", "10.200.0.0/16", network.ErrOverlap, ""},
		{"web", "10.7.0.0/16", network.ErrExists, `network "web" exists with subnet 10.6.128.0/17; choose another name, or omit the subnet to use it as it is`},
	} {
		_, created, err := m.Create(t.Context(), network.Spec{Name: c.name, Subnet: prefix(c.subnet)})
		if !errors.Is(err, c.want) || created || (c.text != "" && err.Error() != c.text) {
			t.Errorf("Create(%s, %s) = %v, want %q", c.name, c.subnet, err, c.text)
		}
	}
	for _, name := range []string{"", "bridge", "host", "none", "../x", "a;b", "a\x00", "a/b", strings.Repeat("x", 65)} {
		if _, _, err := m.Create(t.Context(), network.Spec{Name: name, Subnet: noSubnet}); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("Create(%q) = %v", name, err)
		}
		if _, err := m.Get(t.Context(), name); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("Get(%q) = %v", name, err)
		}
		if err := m.Delete(t.Context(), name); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("Delete(%q) = %v", name, err)
		}
	}
	for _, subnet := range []string{"10.6.0.1/16", "10.6.0.0/31", "fd00::/64", "127.0.0.0/8", "0.0.0.0/0"} {
		if _, _, err := m.Create(t.Context(), network.Spec{Name: "foo4", Subnet: prefix(subnet)}); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("Create of %s = %v", subnet, err)
		}
	}
	if diff := cmp.Diff(before, keys(t, store)); diff != "" {
		t.Errorf("refused creations left something behind: %s", diff)
	}
	failing := network.New(network.Config{Store: store, Routes: func(context.Context) ([]network.HostRoute, error) {
		return nil, errors.New("hosts cannot be read")
	}})
	if _, _, err := failing.Create(t.Context(), network.Spec{Name: "foo4", Subnet: prefix("10.7.0.0/16")}); err == nil {
		t.Error("created without knowing the hosts' routes")
	}
	mustCreate(t, m, "edge", "10.7.0.0/16") // touches big and overlaps nothing
}

func TestChooseSubnet(t *testing.T) {
	for _, c := range []struct {
		routes []string
		want   string
	}{
		{nil, "10.1.0.0/16"},
		{[]string{"0.0.0.0/0", "10.1.2.3/32", "10.2.0.0/15"}, "10.4.0.0/16"},
		{[]string{"10.1.0.0/16", "10.2.0.0/15", "10.4.0.0/14", "10.8.0.0/13", "10.16.0.0/12", "10.32.0.0/11", "10.64.0.0/10", "10.128.0.0/9"}, "10.0.0.0/16"},
		{[]string{"10.0.0.0/8"}, "172.16.0.0/16"},
		{[]string{"10.0.0.0/8", "172.16.0.0/12"}, "192.168.0.0/24"},
		{[]string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/17"}, "192.168.128.0/24"},
		{[]string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"}, ""},
	} {
		m := network.New(network.Config{Store: statetest.New(), Routes: routes("h1", c.routes...)})
		rec, err := m.EnsureDefault(t.Context())
		if c.want == "" {
			if !errors.Is(err, network.ErrNoSubnet) {
				t.Errorf("%v: %v, want ErrNoSubnet", c.routes, err)
			}
			continue
		}
		if err != nil || rec.Subnet != prefix(c.want) || rec.ID != "default" {
			t.Errorf("%v: %v, %v, want default on %s", c.routes, rec, err, c.want)
		}
		again, err := m.EnsureDefault(t.Context())
		if err != nil || again != rec {
			t.Errorf("EnsureDefault again = %v, %v, want %v", again, err, rec)
		}
	}
}

// A VLAN's key without a network that can be read keeps the VLAN, however many there are.
func TestVLANKeysWithoutANetwork(t *testing.T) {
	eachStore(t, func(t *testing.T, store state.Store) {
		m := network.New(network.Config{Store: store})
		for _, id := range []int{1, 2, 4, 5, 6, 7, 8, 9} {
			set(t, store, network.VLANKey(id), `{"version":1,"network":"x"}`)
		}
		for i, want := range []int{3, 10, 11} {
			if got := mustCreate(t, m, "net"+strconv.Itoa(i), ""); got.VLAN != want {
				t.Errorf("network %d has VLAN %d, want %d", i, got.VLAN, want)
			}
		}
	})
}

func TestNoVLAN(t *testing.T) {
	eachStore(t, func(t *testing.T, store state.Store) {
		m := network.New(network.Config{Store: store})
		last := mustCreate(t, m, "first", "")
		for ids := range slices.Chunk(vlansFrom(2), state.MaxTxnOps) {
			var ops []state.Op
			for _, id := range ids {
				ops = append(ops, state.Op{Key: network.VLANKey(id), Value: []byte(`{"version":1,"network":"x"}`)})
			}
			if err := store.Txn(t.Context(), ops); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := m.Create(t.Context(), network.Spec{Name: "more", Subnet: noSubnet}); !errors.Is(err, network.ErrNoVLAN) {
			t.Fatalf("Create = %v, want ErrNoVLAN", err)
		}
		if err := m.Delete(t.Context(), last.ID); err != nil {
			t.Fatal(err)
		}
		if got := mustCreate(t, m, "more", ""); got.VLAN != 1 {
			t.Errorf("VLAN is %d, want the 1 that became free", got.VLAN)
		}
	})
}

func vlansFrom(first int) []int {
	var ids []int
	for id := first; id <= network.MaxVLAN; id++ {
		ids = append(ids, id)
	}
	return ids
}

func TestAllowMetadata(t *testing.T) {
	m := network.New(network.Config{Store: statetest.New()})
	allowing := network.Spec{Name: "cloud", Subnet: prefix("10.6.0.0/24"), AllowMetadata: true}
	for _, want := range []bool{true, false} {
		rec, created, err := m.Create(t.Context(), allowing)
		if err != nil || created != want || !rec.AllowMetadata {
			t.Fatalf("%+v, %v, %v", rec, created, err)
		}
	}
	if rec, _, err := m.Create(t.Context(), network.Spec{Name: "cloud"}); err != nil || !rec.AllowMetadata {
		t.Errorf("as it is: %+v, %v", rec, err)
	}
	if rec, _, err := m.Create(t.Context(), network.Spec{Name: "web"}); err != nil || rec.AllowMetadata {
		t.Errorf("unless said: %+v, %v", rec, err)
	}
	if _, _, err := m.Create(t.Context(), network.Spec{Name: "web", AllowMetadata: true}); !errors.Is(err, network.ErrExists) {
		t.Errorf("an existing network was opened: %v", err)
	}
}

func TestGatewayOfOnesOwn(t *testing.T) {
	m := network.New(network.Config{Store: statetest.New()})
	spec := network.Spec{Name: "web", Subnet: prefix("10.6.0.0/24"), Gateway: netip.MustParseAddr("10.6.0.254")}
	dry := spec
	dry.DryRun = true
	if rec, created, err := m.Create(t.Context(), dry); err != nil || created || rec.Subnet != spec.Subnet || rec.Gateway != spec.Gateway {
		t.Fatalf("dry run: %+v, %v, %v", rec, created, err)
	}
	if _, err := m.Get(t.Context(), "web"); !errors.Is(err, network.ErrNotFound) {
		t.Fatalf("a dry run made it: %v", err)
	}
	for _, want := range []bool{true, false} {
		rec, created, err := m.Create(t.Context(), spec)
		if err != nil || created != want || rec.Gateway != spec.Gateway {
			t.Fatalf("%+v, %v, %v", rec, created, err)
		}
	}
	other := spec
	other.Gateway = netip.MustParseAddr("10.6.0.1")
	if _, _, err := m.Create(t.Context(), other); !errors.Is(err, network.ErrExists) {
		t.Errorf("another gateway: %v", err)
	}
	overlapping := network.Spec{Name: "x", Subnet: prefix("10.6.0.0/16"), DryRun: true}
	if _, _, err := m.Create(t.Context(), overlapping); !errors.Is(err, network.ErrOverlap) {
		t.Errorf("dry run of an overlap: %v", err)
	}
	if rec, _, err := m.Create(t.Context(), network.Spec{Name: "x", DryRun: true}); err != nil || !rec.Subnet.IsValid() {
		t.Errorf("dry run without a subnet: %+v, %v", rec, err)
	}
	for _, bad := range []string{"10.7.0.1", "10.6.0.0", "10.6.0.255", "::1"} {
		wrong := network.Spec{Name: "y", Subnet: prefix("10.6.0.0/24"), Gateway: netip.MustParseAddr(bad)}
		if _, _, err := m.Create(t.Context(), wrong); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("gateway %s: %v", bad, err)
		}
	}
	if _, _, err := m.Create(t.Context(), network.Spec{Name: "y", Gateway: netip.MustParseAddr("10.6.0.1")}); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("a gateway without a subnet: %v", err)
	}
}
