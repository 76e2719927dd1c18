package systemtest

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/api"
)

// rounds is how often each kind of race is run.
const rounds = 100

// outcome is what one of two racers got.
type outcome[T any] struct {
	got T
	err error
}

// race lets hosts 1 and 2 do something at the same moment.
func race[T any](f func(k int) (T, error)) (first, second outcome[T]) {
	var start, end sync.WaitGroup
	start.Add(2)
	run := func(k int, into *outcome[T]) {
		start.Done()
		start.Wait()
		into.got, into.err = f(k)
	}
	end.Go(func() { run(1, &first) })
	end.Go(func() { run(2, &second) })
	end.Wait()
	return first, second
}

// clients are one client a host, kept over all rounds; index 0 is not used.
func clients(t testing.TB) []*api.Client {
	t.Helper()
	return []*api.Client{nil, agentOn(t, 1), agentOn(t, 2), agentOn(t, 3)}
}

// vlans checks that each VLAN has one network and each network its VLAN, in the store.
func vlans(t testing.TB) {
	t.Helper()
	owner := map[int]string{}
	for key, value := range kv(t, "networks/") {
		var r struct {
			ID   string `json:"id"`
			VLAN int    `json:"vlan"`
		}
		decode(t, value, &r)
		if other, twice := owner[r.VLAN]; twice {
			t.Fatalf("VLAN %d is %q's and %q's", r.VLAN, r.ID, other)
		}
		owner[r.VLAN] = strings.TrimPrefix(key, "networks/")
	}
	taken := kv(t, "vlans/")
	if len(taken) != len(owner) {
		t.Fatalf("%d networks have %d VLANs: %v, %v", len(owner), len(taken), owner, taken)
	}
	for id, name := range owner {
		var v struct {
			Network string `json:"network"`
		}
		if err := json.Unmarshal([]byte(taken[fmt.Sprintf("vlans/%d", id)]), &v); err != nil || v.Network != name {
			t.Fatalf("VLAN %d of network %q is written as %q's (%v)", id, name, v.Network, err)
		}
	}
}

// oneWins checks that exactly one of two racers won and the other heard why.
func oneWins[T any](t testing.TB, round int, a, b outcome[T], code api.Code, says ...string) (winner int) {
	t.Helper()
	lost := b
	switch {
	case a.err == nil && b.err != nil:
		winner = 1
	case a.err != nil && b.err == nil:
		winner, lost = 2, a
	default:
		t.Fatalf("round %d: not one winner: %+v, %v; %+v, %v", round, a.got, a.err, b.got, b.err)
	}
	if api.CodeOf(lost.err) != code {
		t.Fatalf("round %d: the loser heard %q: %v, want %q", round, api.CodeOf(lost.err), lost.err, code)
	}
	for _, s := range says {
		if !strings.Contains(lost.err.Error(), s) {
			t.Fatalf("round %d: the loser heard %q, which lacks %q", round, lost.err, s)
		}
	}
	return winner
}

// Promise: two hosts that create networks at the same moment: the same with the
// same subnet gives both the same one; the same with another subnet, or another
// that overlaps, gives one a network and tells the other why. No VLAN is given twice.
func TestCreationsRace(t *testing.T) {
	before := traces(t, 1)
	c := clients(t)
	create := func(ctx context.Context, k int, id, subnet string) (api.Network, error) {
		return c[k].CreateNetwork(ctx, api.CreateNetworkRequest{ID: id, Subnet: subnet})
	}
	destroy := func(t *testing.T, round int, ids ...string) {
		t.Helper()
		for _, id := range ids {
			// By either host: who did not make it must know it as well.
			if err := c[1+round%3].DeleteNetwork(t.Context(), id); err != nil {
				t.Fatalf("round %d: delete %q: %v", round, id, err)
			}
		}
	}
	t.Run("same name, same subnet", func(t *testing.T) {
		for i := range rounds {
			a, b := race(func(k int) (api.Network, error) { return create(t.Context(), k, "race", "10.80.0.0/24") })
			if a.err != nil || b.err != nil || a.got != b.got {
				t.Fatalf("round %d: %+v, %v; %+v, %v", i, a.got, a.err, b.got, b.err)
			}
			vlans(t)
			destroy(t, i, "race")
		}
	})
	t.Run("same name, no subnet", func(t *testing.T) {
		for i := range rounds {
			a, b := race(func(k int) (api.Network, error) { return create(t.Context(), k, "race", "") })
			if a.err != nil || b.err != nil || a.got != b.got {
				t.Fatalf("round %d: %+v, %v; %+v, %v", i, a.got, a.err, b.got, b.err)
			}
			destroy(t, i, "race")
		}
	})
	t.Run("same name, other subnet", func(t *testing.T) {
		for i := range rounds {
			a, b := race(func(k int) (api.Network, error) {
				return create(t.Context(), k, "race", fmt.Sprintf("10.%d.0.0/24", 80+k))
			})
			oneWins(t, i, a, b, api.CodeConflict, `network "race" exists with subnet 10.8`)
			vlans(t)
			destroy(t, i, "race")
		}
	})
	t.Run("other names, overlapping subnets", func(t *testing.T) {
		for i := range rounds {
			a, b := race(func(k int) (api.Network, error) {
				return create(t.Context(), k, fmt.Sprintf("race%d", k), fmt.Sprintf("10.83.0.0/%d", 16+4*k))
			})
			winner := oneWins(t, i, a, b, api.CodeConflict, fmt.Sprintf(`overlaps network "race%d"`, winnerOf(a, b)))
			vlans(t)
			destroy(t, i, fmt.Sprintf("race%d", winner))
		}
	})
	t.Run("other names, no subnets", func(t *testing.T) {
		for i := range rounds {
			a, b := race(func(k int) (api.Network, error) { return create(t.Context(), k, fmt.Sprintf("race%d", k), "") })
			if a.err != nil || b.err != nil || a.got.Subnet.Overlaps(b.got.Subnet) || a.got.VLAN == b.got.VLAN || a.got.VNI == b.got.VNI {
				t.Fatalf("round %d: %+v, %v; %+v, %v", i, a.got, a.err, b.got, b.err)
			}
			vlans(t)
			destroy(t, i, "race1", "race2")
		}
	})
	leavesNothing(t, 1, before)
}

// Promise: two hosts that ask for the same address at the same moment: one gets
// it, the other hears who has it.
func TestAddressRace(t *testing.T) {
	makeNetwork(t, 1, "addrrace", "10.84.0.0/24")
	before := traces(t, 1)
	c := clients(t)
	for i := range rounds {
		ip := fmt.Sprintf("10.84.0.%d", 2+i%250)
		a, b := race(func(k int) (api.Endpoint, error) {
			return c[k].Reserve(t.Context(), api.ReserveRequest{ID: "racer", Network: "addrrace", IP: ip, Source: api.SourceConnect})
		})
		winner := oneWins(t, i, a, b, api.CodeConflict, ip+" is taken by", fmt.Sprintf(`host "h%d"`, winnerOf(a, b)))
		if got := held(t, "10.84.0.0/24"); len(got) != 1 || got[netip.MustParseAddr(ip)] == "" {
			t.Fatalf("round %d: the store has %v", i, got)
		}
		if err := c[winner].Release(t.Context(), "racer"); err != nil {
			t.Fatal(err)
		}
	}
	leavesNothing(t, 1, before)
}

// winnerOf is the host that got something; 2 when both or none did.
func winnerOf[T any](a, b outcome[T]) int {
	if a.err == nil && b.err != nil {
		return 1
	}
	return 2
}

// stored gives a network as the store has it: by its name alone a host tells
// what it has heard, which may be a network that has gone and come again since.
func stored(t testing.TB, c *api.Client, id string) (api.Network, error) {
	t.Helper()
	all, err := c.Networks(within(t))
	if err != nil {
		return api.Network{}, err
	}
	for _, n := range all {
		if n.ID == id {
			return n, nil
		}
	}
	return api.Network{}, api.Errorf(api.CodeNotFound, "network %q is not there", id)
}

// Promise: a network that is deleted while another host attaches to it: either
// the deletion is refused or the attach fails; a network never goes from under an
// endpoint. In every other round the network is made anew at once, elsewhere.
func TestDeletionRacesAttach(t *testing.T) {
	before := traces(t, 2)
	c := clients(t)
	ns := namespace(t, 2, "delrace")
	attach := api.AttachRequest{ID: "delrace", Network: "delrace", NetNS: ns, Source: api.SourceConnect}
	var deleted, attached int
	for i := range rounds / 2 {
		if _, err := c[1].CreateNetwork(t.Context(), api.CreateNetworkRequest{ID: "delrace", Subnet: "10.85.0.0/24"}); err != nil {
			t.Fatal(err)
		}
		again := i%2 == 1
		del, att := race(func(k int) (api.Endpoint, error) {
			if k == 2 {
				return c[2].Attach(t.Context(), attach)
			}
			<-time.After(rand.N(50 * time.Millisecond)) // somewhere on the attach's way
			err := c[1].DeleteNetwork(t.Context(), "delrace")
			if err == nil && again {
				_, err = c[1].CreateNetwork(t.Context(), api.CreateNetworkRequest{ID: "delrace", Subnet: "10.86.0.0/24"})
			}
			return api.Endpoint{}, err
		})
		n, err := stored(t, c[3], "delrace")
		switch {
		case att.err == nil:
			// It is on the network that there is, be it the old or the new one.
			attached++
			if err != nil || !n.Subnet.Contains(att.got.IP) {
				t.Fatalf("round %d: attached with %s, and the network is %+v, %v; deletion: %v", i, att.got.IP, n, err, del.err)
			}
			if del.err != nil && api.CodeOf(del.err) != api.CodeInUse {
				t.Fatalf("round %d: deletion: %v", i, del.err)
			}
			if del.err == nil && !again {
				t.Fatalf("round %d: deleted, and attached", i)
			}
			if got := held(t, n.Subnet.String()); len(got) != 1 || got[att.got.IP] == "" {
				t.Fatalf("round %d: attached with %s, and the store has %v", i, att.got.IP, got)
			}
			if err := c[2].Release(t.Context(), "delrace"); err != nil {
				t.Fatalf("round %d: release: %v", i, err)
			}
		case api.CodeOf(att.err) == api.CodeNotFound:
			deleted++
			if del.err != nil {
				t.Fatalf("round %d: neither deleted nor attached: %v; %v", i, del.err, att.err)
			}
		default:
			t.Fatalf("round %d: attach: %q: %v; deletion: %v", i, api.CodeOf(att.err), att.err, del.err)
		}
		if err := c[2].DeleteNetwork(t.Context(), "delrace"); err != nil && api.CodeOf(err) != api.CodeNotFound {
			t.Fatalf("round %d: delete at the end: %v", i, err)
		}
	}
	t.Logf("%d attached, %d deleted", attached, deleted)
	leavesNothing(t, 2, before)
}
