package systemtest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/socketplane/socketplane/agent/api"
)

// invariants says whether the hosts ks, which are all that live, are one cluster:
// each has a tunnel to each other and to nobody else, the store speaks of no other
// host, and on a network each address in the store is an endpoint's that exists.
func invariants(t testing.TB, network, subnet string, ks ...int) error {
	t.Helper()
	var ids []string
	status := map[int]api.Status{}
	for _, k := range ks {
		st, err := agentOn(t, k).Status(within(t))
		if err != nil {
			return err
		}
		status[k] = st
		ids = append(ids, st.Host.ID)
	}
	slices.Sort(ids)
	for _, k := range ks {
		var alive, named []string
		for _, p := range status[k].Peers {
			if p.State == "alive" {
				alive = append(alive, p.ID)
				named = append(named, p.Tunnel)
			}
		}
		slices.Sort(alive)
		others := slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return id == status[k].Host.ID })
		if diff := cmp.Diff(others, alive, cmpopts.EquateEmpty()); diff != "" {
			return fmt.Errorf("h%d: its living peers are not the other hosts (-others +peers):\n%s", k, diff)
		}
		tunnels := strings.Fields(must(t, k, "ovs-vsctl", "-t", "5", "--bare", "--columns=name", "find", "Port", "external_ids:socketplane_kind=tunnel"))
		slices.Sort(tunnels)
		slices.Sort(named)
		if diff := cmp.Diff(named, tunnels, cmpopts.EquateEmpty()); diff != "" {
			return fmt.Errorf("h%d: its tunnels are not to its living peers (-peers +tunnels):\n%s", k, diff)
		}
		if err := agreement(t, k, network, subnet); err != nil {
			return fmt.Errorf("h%d: %w", k, err)
		}
	}
	known := func(what, host string) error {
		if !slices.Contains(ids, host) {
			return fmt.Errorf("%s is of host %s, which does not live", what, host)
		}
		return nil
	}
	for key := range kv(t, "hosts/") {
		if err := known(key, strings.TrimPrefix(key, "hosts/")); err != nil {
			return err
		}
	}
	for key := range kv(t, "endpoints/") {
		if err := known(key, key[strings.LastIndex(key, "/")+1:]); err != nil {
			return err
		}
	}
	for ip, owner := range held(t, subnet) {
		host, _, _ := strings.Cut(owner, "/")
		if err := known(ip.String(), host); err != nil {
			return err
		}
	}
	return nil
}
