package driver

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/docker"
)

// inState says in which state a container of Docker's list is.
func inState(state string, c map[string]any) map[string]any {
	c["State"] = state
	return c
}

// keepsCreated is what the agent is asked for to keep 10.6.0.9 on web.
var keepsCreated = []string{"hold web 10.6.0.9", "reserve " + createdID(namedAddress{docker.NamedAddress{IP: netip.MustParseAddr("10.6.0.9")}, segment{network: "web"}}) + " web 10.6.0.9  driver"}

// TestCreated: a container that was made with an address of its own and has never run
// keeps it, until it runs or is removed.
func TestCreated(t *testing.T) {
	for name, tt := range map[string]struct {
		container map[string]any
		endpoints []api.Endpoint // of this host
		asked     bool           // Docker has been given the address
		keeps     bool
	}{
		"by the network's name": {asks("c", "new", "web", "10.6.0.9", ""), nil, false, true},
		"by its id":             {asks("c", "new", "n1", "10.6.0.9", ""), nil, false, true},
		"on another driver's": {map[string]any{"Id": "c", "Names": []string{"/new"}, "NetworkSettings": map[string]any{"Networks": map[string]any{
			"bridge": map[string]any{"IPAMConfig": map[string]string{"IPv4Address": "10.6.0.9"}},
		}}}, nil, false, false},
		"outside of the subnet":      {asks("c", "new", "web", "10.7.0.9", ""), nil, false, false},
		"it runs":                    {asks("c", "new", "web", "10.6.0.9", "e"), nil, false, false},
		"it is being started":        {asks("c", "new", "web", "10.6.0.9", ""), nil, true, false},
		"another one here has it":    {asks("c", "new", "web", "10.6.0.9", ""), []api.Endpoint{driven("e", "10.6.0.9", true)}, false, false},
		"that one is on another net": {asks("c", "new", "web", "10.6.0.9", ""), []api.Endpoint{onNetwork("shop", driven("e", "10.6.0.9", true))}, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			a := &agent{networks: []api.Network{aNetwork("web", "10.6.0.0/24")}, endpoints: tt.endpoints}
			d := newTestDriver(a)
			if tt.asked {
				d.kept.asked(netip.MustParsePrefix("10.6.0.9/24"))
			}
			there := aKeptDockerd()
			there.endpoints["n1"] = map[string]string{"e": "other"}
			there.list = []map[string]any{inState("created", tt.container), inState("created", asks("d", "not told of", "web", "10.6.0.77", ""))}
			engine := there.engine(t)
			if err := d.Event(t.Context(), engine, docker.Event{Kind: docker.ContainerMade, ID: "c"}); err != nil {
				t.Fatal(err)
			}
			<-d.kept.begin
			if err := d.lookAtCreated(t.Context(), engine); err != nil {
				t.Fatal(err)
			}
			want := keepsCreated
			if !tt.keeps {
				want = nil
			}
			if !slices.Equal(a.asked, want) {
				t.Errorf("asked %q, want %q", a.asked, want)
			}
			// Nobody has told of the other one: the sweep finds it.
			if err := d.Sweep(t.Context(), engine); err != nil {
				t.Fatal(err)
			}
			if err := d.lookAtCreated(t.Context(), engine); err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(a.asked, "hold web 10.6.0.77") {
				t.Errorf("asked %q", a.asked)
			}
		})
	}
}

// TestCreatedStarts: the start of such a container takes the address over, and its
// removal gives it back.
func TestCreatedStarts(t *testing.T) {
	a := &agent{networks: []api.Network{aNetwork("web", "10.6.0.0/24")}}
	d := newTestDriver(a)
	d.known.setPools(map[netip.Prefix]string{netip.MustParsePrefix("10.6.0.0/24"): "web"})
	there := aKeptDockerd()
	there.list = []map[string]any{inState("created", asks("c", "new", "web", "10.6.0.9", ""))}
	engine := there.engine(t)
	if err := d.Sweep(t.Context(), engine); err != nil {
		t.Fatal(err)
	}
	if err := d.lookAtCreated(t.Context(), engine); err != nil {
		t.Fatal(err)
	}
	id := strings.Fields(keepsCreated[1])[1]
	a.endpoints = []api.Endpoint{driven(id, "10.6.0.9", false)}
	a.asked = nil
	for range 2 {
		if err := d.Sweep(t.Context(), engine); err != nil {
			t.Fatal(err)
		}
		if err := d.lookAtCreated(t.Context(), engine); err != nil {
			t.Fatal(err)
		}
	}
	if len(a.asked) > 0 {
		t.Errorf("kept already, asked %q", a.asked)
	}
	if status, answer := call(t, d.Handler(), "IpamDriver.RequestAddress", `{"PoolID":"10.6.0.0/24","Address":"10.6.0.9"}`); status != http.StatusOK {
		t.Fatal(answer)
	}
	if want := "hold web 10.6.0.9 from " + id; !slices.Contains(a.asked, want) {
		t.Errorf("asked %q, want %q", a.asked, want)
	}
	there.list = nil
	if err := d.compareKept(t.Context(), engine); err != nil {
		t.Fatal(err)
	}
	if want := "release " + id; !slices.Contains(a.asked, want) {
		t.Errorf("asked %q, want %q", a.asked, want)
	}
	// An agent that begins anew learns of Docker what it is for.
	there.list = []map[string]any{inState("created", asks("c", "new", "web", "10.6.0.9", ""))}
	anew := newTestDriver(a)
	if err := anew.Sweep(t.Context(), engine); err != nil {
		t.Fatal(err)
	}
	if !anew.kept.ended(id) {
		t.Error("it is not kept after a restart")
	}
}

// TestCreatedAgainstStart: a start that comes while the address is being kept waits for
// that, and the address is asked for by one of them at a time.
func TestCreatedAgainstStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &agent{networks: []api.Network{aNetwork("web", "10.6.0.0/24")}, stall: time.Second}
		d := newTestDriver(a)
		d.known.setPools(map[netip.Prefix]string{netip.MustParsePrefix("10.6.0.0/24"): "web"})
		c := namedAddress{docker.NamedAddress{Container: "c", Name: "new", IP: netip.MustParseAddr("10.6.0.9")}, segment{"web", netip.MustParsePrefix("10.6.0.0/24")}}
		kept := make(chan error, 1)
		go func() { kept <- d.keepForStart(t.Context(), c) }()
		time.Sleep(time.Second / 2) // it asks for the hold
		status, answer := call(t, d.Handler(), "IpamDriver.RequestAddress", `{"PoolID":"10.6.0.0/24","Address":"10.6.0.9"}`)
		if err := <-kept; err != nil || status != http.StatusOK {
			t.Fatal(err, answer)
		}
		if got := a.wasAsked(); !slices.Equal(got[:2], keepsCreated) || len(got) != 3 {
			t.Errorf("asked %q", got)
		}
		// Docker has the address now: it is not kept a second time.
		if err := d.keepForStart(t.Context(), c); err != nil || len(a.wasAsked()) != 3 {
			t.Errorf("%v, asked %q", err, a.wasAsked())
		}
		// Who waits too long is told.
		unlock, err := d.kept.lock(t.Context(), netip.MustParsePrefix("10.6.0.8/24"))
		if err != nil {
			t.Fatal(err)
		}
		defer unlock()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := d.requestAddress(ctx, addressRequest{PoolID: "10.6.0.0/24", Address: "10.6.0.8"}); api.CodeOf(err) != api.CodeUnavailable {
			t.Error(err)
		}
	})
}
