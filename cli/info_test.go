package cli

import (
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/api"
)

// A problem of an endpoint stands below the table, on one line.
func TestInfoSaysProblems(t *testing.T) {
	var b strings.Builder
	views := []endpointView{viewEndpoint(api.Endpoint{ID: "a", Attached: true}), viewEndpoint(api.Endpoint{ID: "b", Attached: true, Problem: "one\ntwo \x1b[2J"})}
	if err := writeEndpoints(&b, views); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != 4 || !strings.HasPrefix(lines[3], "Problem: one; two") || strings.Contains(b.String(), "\x1b") {
		t.Errorf("%q", lines)
	}
}

// The path's MTU is in the table of peers; what is not known is a dash.
func TestStatusSaysPaths(t *testing.T) {
	var b strings.Builder
	st := api.Status{Peers: []api.Peer{{Name: "h2", Tunnel: "vxlan-1", PathMTU: 1400}, {Name: "h3"}}}
	if err := writeStatus(&b, st); err != nil {
		t.Fatal(err)
	}
	out := b.String()
	if !strings.Contains(out, "PATH MTU") || !strings.Contains(out, "vxlan-1  1400") && !strings.Contains(out, "vxlan-1   1400") || !strings.HasSuffix(strings.TrimSpace(out), "-") {
		t.Error(out)
	}
}
