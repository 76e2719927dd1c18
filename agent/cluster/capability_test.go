package cluster

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/state"
)

// strictRecord is the record as releases without UnknownFields read it: they refuse one
// with any other member.
type strictRecord struct {
	Version  int      `json:"version"`
	ID       string   `json:"id"`
	Name     string   `json:"name"`
	VTEP     string   `json:"vtep"`
	MTU      int      `json:"underlay_mtu"`
	Routes   []string `json:"routes"`
	Agent    string   `json:"agent"`
	Datapath string   `json:"datapath"`
	Node     string   `json:"node,omitempty"`
	Boot     string   `json:"boot,omitempty"`
}

// TestCapabilitiesInARecord: a host names its capabilities in a record that the first
// release reads too, and they are read back. That release's record names none.
func TestCapabilitiesInARecord(t *testing.T) {
	h, _ := self(1500)()
	h.Version, h.Capabilities = "v1.2.0-3-gabcdef0", []string{"unknown-fields", "other"}
	value, err := h.encode()
	if err != nil {
		t.Fatal(err)
	}
	var old strictRecord
	dec := json.NewDecoder(strings.NewReader(string(value)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&old); err != nil || old.ID != id {
		t.Errorf("the first release reads %+v, %v", old, err)
	}
	got, err := Decode(state.Entry{Key: HostsPrefix + id, Value: value})
	if err != nil || got.Version != h.Version || !slices.Equal(got.Capabilities, h.Capabilities) || !got.Knows("other") || got.Knows("v1.2.0-3-gabcdef0") {
		t.Errorf("%+v, %v", got, err)
	}
	old.Agent = "e58e9f7"
	if value, err = json.Marshal(old); err != nil {
		t.Fatal(err)
	}
	if got, err = Decode(state.Entry{Key: HostsPrefix + id, Value: value}); err != nil || got.Version != "e58e9f7" || len(got.Capabilities) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"\x1b[2J", "v1\nx", strings.Repeat("v", 2000), "v1" + strings.Repeat(" x", 65)} {
		old.Agent = bad
		value, _ := json.Marshal(old)
		if got, err := Decode(state.Entry{Key: HostsPrefix + id, Value: value}); err == nil {
			t.Errorf("%.20q: %+v", bad, got)
		}
	}
	if slices.Contains(Capabilities(), "") || !slices.Contains(Capabilities(), UnknownFields) {
		t.Errorf("%q", Capabilities())
	}
}

func TestLacking(t *testing.T) {
	now, before := Host{ID: "a", Alive: true, Capabilities: Capabilities()}, Host{ID: "b", Alive: true}
	suspect := before
	suspect.Alive = false
	for name, c := range map[string]struct {
		hosts []Host
		gone  map[string]bool
		want  string
	}{
		"alone":                {[]Host{now}, nil, ""},
		"nobody":               {nil, nil, ""},
		"an older host":        {[]Host{now, before}, nil, "b"},
		"an older suspect":     {[]Host{now, suspect}, nil, "b"},
		"an older one is gone": {[]Host{now, suspect}, map[string]bool{"b": true}, ""},
	} {
		got := ""
		for _, h := range Lacking(c.hosts, c.gone, UnknownFields) {
			got += h.ID
		}
		if got != c.want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if len(Lacking([]Host{now}, nil, "of tomorrow")) != 1 {
		t.Error("a host knows what nobody has told")
	}
}
