package network_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state/statetest"
)

func TestBadRecords(t *testing.T) {
	const good = `{"version":1,"id":"web","subnet":"10.6.0.0/16","gateway":"10.6.0.1","vlan":7,"vni":10007}`
	key := network.Key("web")
	for name, value := range map[string]string{
		"not JSON":        `garbage`,
		"empty":           ``,
		"null":            `null`,
		"other version":   strings.Replace(good, `"version":1`, `"version":2`, 1),
		"trailing":        good + good,
		"other name":      strings.Replace(good, `web`, `bew`, 1),
		"bad name":        strings.Replace(good, `web`, `../web`, 1),
		"host bits":       strings.Replace(good, `10.6.0.0/16`, `10.6.0.1/16`, 1),
		"no subnet":       strings.Replace(good, `10.6.0.0/16`, ``, 1),
		"IPv6":            strings.Replace(good, `10.6.0.0/16`, `fd00::/64`, 1),
		"gateway outside": strings.Replace(good, `10.6.0.1`, `10.7.0.1`, 1),
		"gateway network": strings.Replace(good, `10.6.0.1`, `10.6.0.0`, 1),
		"gateway last":    strings.Replace(good, `10.6.0.1`, `10.6.255.255`, 1),
		"no gateway":      strings.Replace(good, `10.6.0.1`, ``, 1),
		"VLAN 0":          strings.Replace(good, `:7,`, `:0,`, 1),
		"VLAN 4095":       strings.Replace(good, `:7,`, `:4095,`, 1),
		"VNI 0":           strings.Replace(good, `10007`, `0`, 1),
		"VNI too large":   strings.Replace(good, `10007`, `16777216`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			store := statetest.New()
			set(t, store, key, value)
			m := network.New(network.Config{Store: store})
			other := mustCreate(t, m, "other", "10.9.0.0/16")
			names := func(what string, err error) {
				if !errors.Is(err, network.ErrBadRecord) || !strings.Contains(err.Error(), key) {
					t.Errorf("%s = %v, want ErrBadRecord that names %s", what, err, key)
				}
			}
			_, err := m.Get(t.Context(), "web")
			names("Get", err)
			_, _, err = m.Create(t.Context(), network.Spec{Name: "web", Subnet: noSubnet})
			names("Create", err)
			names("Delete", m.Delete(t.Context(), "web"))
			all, bad, err := m.List(t.Context())
			if err != nil || len(bad) != 1 || len(all) != 1 || all[0] != other {
				t.Fatalf("List = %v, %v, %v", all, bad, err)
			}
			names("List", bad[0])
			if e, err := store.Get(t.Context(), key); err != nil || string(e.Value) != value {
				t.Errorf("the bad value became %q, %v", e.Value, err)
			}
		})
	}
	store := statetest.New()
	set(t, store, key, good)
	if _, err := network.New(network.Config{Store: store}).Get(t.Context(), "web"); err != nil {
		t.Errorf("the good one: %v", err)
	}
	set(t, store, key, strings.Replace(good, `"version":1`, `"version":2`, 1))
	_, _, err := network.New(network.Config{Store: store}).Create(t.Context(), network.Spec{Name: "foo", Subnet: prefix("10.6.9.0/24")})
	if !errors.Is(err, network.ErrOverlap) {
		t.Errorf("Create on the subnet of a record that cannot be decoded = %v, want ErrOverlap", err)
	}
}

func TestBadGeneration(t *testing.T) {
	for _, value := range []string{`x`, `{"version":2,"generation":1}`, `{"version":1,"generation":-1}`} {
		store := statetest.New()
		set(t, store, network.GenerationKey, value)
		_, _, err := network.New(network.Config{Store: store}).Create(t.Context(), network.Spec{Name: "web", Subnet: noSubnet})
		if !errors.Is(err, network.ErrBadRecord) || !strings.Contains(err.Error(), network.GenerationKey) {
			t.Errorf("Create with generation %s = %v", value, err)
		}
	}
}
