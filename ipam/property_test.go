package ipam_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/state/statetest"
	"github.com/socketplane/socketplane/ipam"
)

// TestProperties drives several hosts at random over one store, beside a plain
// model of who has what.
func TestProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ctx := t.Context()
		store := statetest.New()
		p := pool(rapid.SampledFrom([]string{"10.6.0.0/30", "10.6.0.16/28", "10.6.0.0/25", "10.6.0.128/25", "10.6.0.0/16"}).Draw(t, "subnet"))
		const hosts = 3
		var a [hosts]*ipam.Allocator
		for h := range a {
			a[h] = ipam.New(store, fmt.Sprint("h", h))
		}
		model := map[string]netip.Addr{}
		usedBy := func(want netip.Addr) string {
			for owner, got := range model {
				if got == want {
					return owner
				}
			}
			return ""
		}
		size := 1 << (32 - p.Subnet.Bits())
		nth := func(n int) netip.Addr {
			b := p.Subnet.Addr().As4()
			b[2], b[3] = b[2]+byte(n>>8), b[3]+byte(n)
			return netip.AddrFrom4(b)
		}
		reserved := func(x netip.Addr) bool { return x == nth(0) || x == nth(1) || x == nth(size-1) }
		draw := func() (int, string) {
			h := rapid.IntRange(0, hosts-1).Draw(t, "host")
			return h, fmt.Sprintf("h%d/%d", h, rapid.IntRange(0, 40).Draw(t, "owner"))
		}
		t.Repeat(map[string]func(*rapid.T){
			"allocate": func(t *rapid.T) {
				h, owner := draw()
				got, err := a[h].Allocate(ctx, p, owner)
				had, has := model[owner]
				switch {
				case errors.Is(err, ipam.ErrExhausted):
					if has || len(model) != size-3 {
						t.Fatalf("exhausted with %d of %d", len(model), size-3)
					}
				case err != nil:
					t.Fatal(err)
				case has && got != had:
					t.Fatalf("%s has %s and got %s", owner, had, got)
				case !has && (usedBy(got) != "" || reserved(got) || !p.Subnet.Contains(got)):
					t.Fatalf("%s got %s, which is %q's or reserved", owner, got, usedBy(got))
				default:
					model[owner] = got
				}
			},
			"allocate addr": func(t *rapid.T) {
				h, owner := draw()
				want := nth(rapid.IntRange(0, min(size, 300)-1).Draw(t, "address"))
				err := a[h].AllocateAddr(ctx, p, want, owner)
				had, has := model[owner]
				var should error
				switch {
				case reserved(want):
					should = ipam.ErrReserved
				case has && had != want:
					should = ipam.ErrOwnerHas
				case !has && usedBy(want) != "":
					should = ipam.ErrTaken
				default:
					model[owner] = want
				}
				if !errors.Is(err, should) {
					t.Fatalf("AllocateAddr(%s, %s) = %v, want %v", want, owner, err, should)
				}
			},
			"release": func(t *rapid.T) {
				h, owner := draw()
				if err := a[h].Release(ctx, p, owner); err != nil {
					t.Fatal(err)
				}
				delete(model, owner)
			},
			"restart": func(t *rapid.T) {
				h := rapid.IntRange(0, hosts-1).Draw(t, "host")
				a[h] = ipam.New(store, fmt.Sprint("h", h))
			},
			"": func(t *rapid.T) {
				all, err := a[0].List(ctx, p.Subnet)
				if err != nil || len(all) != len(model) {
					t.Fatalf("List gives %v, %v; the model has %v", all, err, model)
				}
				for _, x := range all {
					if model[x.Owner] != x.Addr {
						t.Fatalf("List gives %v; the model has %v", x, model[x.Owner])
					}
				}
			},
		})
		for owner := range model {
			if err := a[owner[1]-'0'].Release(ctx, p, owner); err != nil {
				t.Fatal(err)
			}
		}
		if left, err := store.List(ctx, state.Prefix); err != nil || len(left) > 0 {
			t.Fatalf("left behind: %v, %v", left, err)
		}
	})
}
