package cli

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/cluster"
)

// Without an agent only the state directory tells whether there is a cluster to leave.
func TestLeaveClusterWithoutAgent(t *testing.T) {
	const in = "33333333-3333-4333-8333-333333333333"
	var s Settings
	s.Host.StateDir = t.TempDir()
	s.API.Socket = filepath.Join(s.Host.StateDir, "none.sock")
	a := &app{}
	leave := func(force bool) (string, error) { return a.leaveCluster(t.Context(), s, force) }

	if said, err := leave(false); said != "" || err != nil {
		t.Errorf("alone: %q, %v", said, err)
	}
	if err := (cluster.Place{Is: api.PlaceJoined, Cluster: in}).Save(s.Host.StateDir); err != nil {
		t.Fatal(err)
	}
	if said, err := leave(false); said != "" || err == nil || !strings.Contains(err.Error(), in) || !strings.Contains(err.Error(), "agent start") {
		t.Errorf("in a cluster: %q, %v", said, err)
	}
	if said, err := leave(true); err != nil || !strings.Contains(said, "its record stays there") {
		t.Errorf("with force: %q, %v", said, err)
	}
	s.Consul.Address = "http://127.0.0.1:8500"
	if said, err := leave(false); said != "" || err != nil {
		t.Errorf("with a Consul of others: %q, %v", said, err)
	}
}
