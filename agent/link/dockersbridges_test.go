package link

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestDockersBridges: Docker's bridges are found in its table of nftables, and only there.
func TestDockersBridges(t *testing.T) {
	l := newLinks(t)
	want := func(bridges ...string) {
		t.Helper()
		if got, err := l.DockersBridges(t.Context()); err != nil || !slices.Equal(got, bridges) {
			t.Errorf("%q, %v, want %q", got, err, bridges)
		}
	}
	want()
	nft := exec.CommandContext(t.Context(), "nft", "-f", "-")
	nft.Stdin = strings.NewReader(`
table ip docker-bridges {
	chain filter-FORWARD { type filter hook forward priority filter; policy accept; }
	chain filter-forward-in__docker0 { counter drop; }
	chain filter-forward-out__docker0 { counter accept; }
	chain filter-forward-in__br-1 { counter drop; }
	chain filter-forward-in__spg1 { counter drop; }
}
table ip other {
	chain filter-forward-in__eth0 { counter drop; }
}`)
	if out, err := nft.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	want("br-1", "docker0")
	if out, err := exec.CommandContext(t.Context(), "nft", "delete table ip docker-bridges; delete table ip other").CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	want()
}
