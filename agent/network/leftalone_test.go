package network_test

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state/statetest"
)

// TestLeftAloneIsSaidOnce: a value that cannot be decoded is logged once, and again
// when somebody has written another that cannot.
func TestLeftAloneIsSaidOnce(t *testing.T) {
	store := statetest.New()
	var log bytes.Buffer
	m := network.New(network.Config{Store: store, Host: "h1", Logger: slog.New(slog.NewTextHandler(&log, nil))})
	made := mustCreate(t, m, "web", "10.6.0.0/16")
	keys := []string{
		network.ReservationsPrefix + "10.203.0.0-24", network.NetworksPrefix + "odd", network.DockersPrefix + "web",
	}
	use := func() {
		t.Helper()
		for range 3 {
			if _, err := m.Reserve(t.Context(), netip.Prefix{}); err != nil {
				t.Fatal(err)
			}
			if _, _, err := m.Create(t.Context(), network.Spec{Name: "tried", DryRun: true}); err != nil {
				t.Fatal(err)
			}
			if _, err := m.DockerSpec(t.Context(), "web", made.Subnet); err != nil {
				t.Fatal(err)
			}
		}
	}
	for times := 1; times <= 2; times++ {
		for _, key := range keys {
			set(t, store, key, strings.Repeat(" ", times)+`{"version":9}`)
		}
		use()
		for _, key := range keys {
			if got := strings.Count(log.String(), `\"`+key+`\"`); got != times {
				t.Errorf("%s was logged %d times, want %d:\n%s", key, got, times, log.String())
			}
		}
	}
}
