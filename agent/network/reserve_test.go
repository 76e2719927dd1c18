package network_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
)

// onHost is the manager of a host in a cluster where h1, h2 and h3 live.
func onHost(store state.Store, host string) *network.Manager {
	return network.New(network.Config{
		Store: store, Host: host,
		Alive: func(context.Context) (map[string]bool, error) {
			return map[string]bool{"h1": true, "h2": true, "h3": true}, nil
		},
	})
}

// TestReserveAtOnce: subnets that several hosts choose at the same moment differ, and
// none of them is given to a network that is created beside them.
func TestReserveAtOnce(t *testing.T) {
	everyStore(t, func(t *testing.T, store state.Store) {
		const n = 9
		got := make([]netip.Prefix, n)
		errs := make([]error, n)
		hosts := []*network.Manager{onHost(store, "h1"), onHost(store, "h2"), onHost(store, "h3")}
		atOnce(n, func(i int) {
			if i == n-1 {
				rec, _, err := hosts[2].Create(t.Context(), network.Spec{Name: "beside"})
				got[i], errs[i] = rec.Subnet, err
				return
			}
			got[i], errs[i] = hosts[i%3].Reserve(t.Context(), noSubnet)
		})
		for i := range n {
			if errs[i] != nil {
				t.Fatal(errs[i])
			}
			for j := range i {
				if got[i].Overlaps(got[j]) {
					t.Errorf("%s and %s", got[i], got[j])
				}
			}
		}
	})
}

// TestReservation: who may use a reserved subnet, and when it is free again.
func TestReservation(t *testing.T) {
	eachStore(t, func(t *testing.T, store state.Store) {
		h1, h2 := onHost(store, "h1"), onHost(store, "h2")
		chosen, err := h1.Reserve(t.Context(), noSubnet)
		if err != nil {
			t.Fatal(err)
		}
		asked, other := prefix("10.200.0.0/24"), prefix("10.201.0.0/24")
		for _, m := range []*network.Manager{h1, h1, h2} { // by one Compose file on two hosts
			if _, err := m.Reserve(t.Context(), asked); err != nil {
				t.Fatal(err)
			}
		}
		refused := func(m *network.Manager, spec network.Spec) {
			t.Helper()
			if _, _, err := m.Create(t.Context(), spec); !errors.Is(err, network.ErrOverlap) || !strings.Contains(err.Error(), "reserved for a network that Docker is making") {
				t.Errorf("%+v: %v", spec, err)
			}
		}
		refused(h1, network.Spec{Name: "plain", Subnet: chosen})
		refused(h2, network.Spec{Name: "plain", Subnet: asked})
		refused(h2, network.Spec{Name: "docker", Subnet: chosen, ByDocker: true})
		if _, err := h2.Reserve(t.Context(), chosen); !errors.Is(err, network.ErrOverlap) || strings.Contains(err.Error(), `""`) {
			t.Errorf("a subnet that was chosen for another: %v", err)
		}
		if _, _, err := h2.Create(t.Context(), network.Spec{Name: "both", Subnet: asked, ByDocker: true}); err != nil {
			t.Errorf("the same network on another host: %v", err)
		}
		if rec, made, err := h1.Create(t.Context(), network.Spec{Name: "both", Subnet: asked, ByDocker: true}); err != nil || made || rec.Subnet != asked {
			t.Errorf("and here: %+v %v %v", rec, made, err)
		}
		if _, _, err := h1.Create(t.Context(), network.Spec{Name: "mine", Subnet: chosen, ByDocker: true}); err != nil {
			t.Error(err)
		}
		if _, err := h1.Reserve(t.Context(), other); err != nil {
			t.Fatal(err)
		}
		// What h1 does not keep is free; so is all of a life that is over, and of a host that is dead.
		if err := h1.Keep(t.Context(), []netip.Prefix{other}); err != nil {
			t.Fatal(err)
		}
		if left := reserved(t, store); len(left) != 1 || !strings.Contains(left[0], "10.201.0.0-24") {
			t.Errorf("reserved: %q", left)
		}
		h1 = onHost(store, "h1")
		if _, _, err := h1.Create(t.Context(), network.Spec{Name: "plain", Subnet: other}); err != nil {
			t.Errorf("what an earlier life has reserved: %v", err)
		}
		if _, err := onHost(store, "dead").Reserve(t.Context(), prefix("10.202.0.0/24")); err != nil {
			t.Fatal(err)
		}
		if _, err := h2.Reserve(t.Context(), prefix("10.202.0.0/24")); err != nil {
			t.Errorf("what a dead host has reserved: %v", err)
		}
		set(t, store, network.ReservationsPrefix+"10.203.0.0-24", `{"version":1,"subnet":9}`)
		if _, err := h2.Reserve(t.Context(), prefix("10.203.0.0/25")); err != nil {
			t.Errorf("beside what cannot be read: %v", err)
		}
	})
}

func reserved(t *testing.T, store state.Store) []string {
	t.Helper()
	var list []string
	for _, key := range keys(t, store) {
		if strings.HasPrefix(key, network.ReservationsPrefix) {
			list = append(list, key)
		}
	}
	return list
}
