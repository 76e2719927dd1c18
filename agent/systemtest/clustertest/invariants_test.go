package clustertest

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// whole says whether the hosts ks, which are all that live, are one cluster: each
// has a tunnel to each other and to nobody else; the endpoints in the store, the
// owners of addresses, the ports of the bridges and what there really is are one
// and the same; and all of a network reach each other.
func whole(t testing.TB, ends []end, ks ...int) error {
	t.Helper()
	ids := map[string]int{}
	all := map[int]status{}
	for _, k := range ks {
		s, err := statusOf(t, k)
		if err != nil {
			return err
		}
		if !s.Ready || len(s.Problems) > 0 {
			return fmt.Errorf("h%d is not well: %q", k, s.Problems)
		}
		ids[s.Host.ID], all[k] = k, s
	}
	if len(ids) != len(ks) {
		return fmt.Errorf("%d hosts have %d identities", len(ks), len(ids))
	}
	for _, k := range ks {
		if err := tunnels(t, k, all[k], ids); err != nil {
			return err
		}
	}
	store, err := storeOf(t, ks[0])
	if err != nil {
		return err
	}
	if err := store.agrees(ends, ids); err != nil {
		return err
	}
	for _, k := range ks {
		ports := strings.Fields(must(t, k, "ovs-vsctl", "-t", "5", "--bare", "--columns=name", "find", "Port", "external_ids:socketplane_kind=endpoint"))
		here := slices.DeleteFunc(slices.Clone(ends), func(e end) bool { return e.host != k })
		if len(ports) != len(here) {
			return fmt.Errorf("h%d has %d endpoints and the ports %q", k, len(here), ports)
		}
	}
	for _, e := range ends {
		if out := must(t, e.host, "ip", "-n", e.name, "-o", "-4", "address"); !strings.Contains(out, " "+e.ip+"/") {
			return fmt.Errorf("%s on h%d has not %s:\n%s", e.name, e.host, e.ip, out)
		}
		for _, o := range ends {
			if o.network != e.network || o == e {
				continue
			}
			if err := e.pings(t, o.ip); err != nil {
				return fmt.Errorf("%s on h%d does not reach %s on h%d: %w", e.name, e.host, o.name, o.host, err)
			}
		}
	}
	return nil
}

// awaitWhole waits for it.
func awaitWhole(t testing.TB, ends []end, ks ...int) {
	t.Helper()
	began := time.Now()
	eventually(t, 90*time.Second, fmt.Sprintf("hosts %v are one cluster", ks), func() error { return whole(t, ends, ks...) })
	t.Logf("hosts %v are one cluster after %s", ks, time.Since(began).Round(100*time.Millisecond))
}

// tunnels compares a host's peers with the others that live, and its tunnels with both.
func tunnels(t testing.TB, k int, s status, ids map[string]int) error {
	t.Helper()
	var named []string
	for _, p := range s.Peers {
		if _, ok := ids[p.ID]; !ok || p.ID == s.Host.ID || p.State != "alive" {
			return fmt.Errorf("h%d has a peer that is none: %+v", k, p)
		}
		named = append(named, p.Tunnel)
	}
	if len(named) != len(ids)-1 {
		return fmt.Errorf("h%d has %d peers among %d hosts", k, len(named), len(ids))
	}
	there := strings.Fields(must(t, k, "ovs-vsctl", "-t", "5", "--bare", "--columns=name", "find", "Port", "external_ids:socketplane_kind=tunnel"))
	slices.Sort(there)
	slices.Sort(named)
	if !slices.Equal(there, named) {
		return fmt.Errorf("h%d has tunnels %q, its peers have %q", k, there, named)
	}
	return nil
}

// stored is what the store says, by key without the layout's prefix.
type stored map[string][]byte

func storeOf(t testing.TB, k int) (stored, error) {
	t.Helper()
	const layout = "socketplane/v1/"
	var entries []struct {
		Key   string
		Value []byte
	}
	if err := askConsul(k, "kv/"+layout+"?recurse&consistent", &entries); err != nil {
		return nil, fmt.Errorf("read the store: %w", err)
	}
	all := stored{}
	for _, e := range entries {
		all[strings.TrimPrefix(e.Key, layout)] = e.Value
	}
	return all, nil
}

// agrees compares hosts, endpoints and owners of addresses with what there is.
func (s stored) agrees(ends []end, ids map[string]int) error {
	var want, listed, owned []string
	for _, e := range ends {
		want = append(want, fmt.Sprintf("h%d %s %s", e.host, e.name, e.ip))
	}
	of := func(id string) string {
		if k, ok := ids[id]; ok {
			return fmt.Sprintf("h%d", k)
		}
		return "the strange host " + id
	}
	for key, value := range s {
		kind, rest, _ := strings.Cut(key, "/")
		switch kind {
		case "hosts", "leaving":
			if _, ok := ids[rest]; !ok || kind == "leaving" {
				return fmt.Errorf("%s is in the store", key)
			}
		case "endpoints":
			var list struct{ Endpoints []struct{ ID, IP string } }
			if err := decodeTo(value, &list); err != nil {
				return err
			}
			for _, e := range list.Endpoints {
				listed = append(listed, of(rest[strings.LastIndex(rest, "/")+1:])+" "+e.ID+" "+e.IP)
			}
		case "ipam":
			var block struct{ Owners map[netip.Addr]string }
			if err := decodeTo(value, &block); err != nil {
				return err
			}
			for addr, owner := range block.Owners {
				host, id, _ := strings.Cut(owner, "/")
				owned = append(owned, of(host)+" "+id+" "+addr.String())
			}
		}
	}
	for what, have := range map[string][]string{"lists": listed, "owners": owned} {
		slices.Sort(have)
		slices.Sort(want)
		if !slices.Equal(have, want) {
			return fmt.Errorf("the store's %s are\n%q, there are\n%q", what, have, want)
		}
	}
	return nil
}

func decode(t testing.TB, text string, into any) {
	t.Helper()
	if err := decodeTo([]byte(text), into); err != nil {
		t.Fatal(err)
	}
}

func decodeTo(data []byte, into any) error {
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%w in %s", err, data)
	}
	return nil
}
