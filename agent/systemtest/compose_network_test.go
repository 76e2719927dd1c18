package systemtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// ownNetwork is a Compose file that declares its network itself.
const ownNetwork = `version: "2.4"
services:
  sleeper:
    image: ${IMAGE}
    init: true
    command: sleep 100000
    networks: [back]
networks:
  back:
    driver: socketplane
    labels: {team: shop}
    ipam:
      driver: socketplane
      config: [{subnet: 10.26.0.0/24}]
`

// Promise: one Compose file that declares its network comes up on two hosts, and its
// containers reach each other. Taken down on one host while the other uses the
// network, it comes up there again; taken down on both, nothing is left.
func TestComposeOwnNetwork(t *testing.T) {
	var before [3][]string
	for k := 1; k <= 2; k++ {
		before[k] = traces(t, k)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "compose.yaml"), []byte(ownNetwork), 0o644); err != nil {
		t.Fatal(err)
	}
	compose := func(k int, args ...string) result {
		t.Helper()
		return try(t, k, append([]string{"env", "IMAGE=" + lab.Image, "docker-compose", "-p", "own", "-f", filepath.Join(dir, "compose.yaml")}, args...)...)
	}
	works := func(k int, args ...string) {
		t.Helper()
		if r := compose(k, args...); r.code != 0 {
			t.Fatalf("h%d: %q: %d %s%s", k, args, r.code, r.stdout, r.stderr)
		}
	}
	t.Cleanup(func() {
		compose(1, "down", "-t", "1")
		compose(2, "down", "-t", "1")
	})
	sleeper := func(k int) container {
		t.Helper()
		name := strings.TrimSpace(must(t, k, "docker", "ps", "--filter", "label=com.docker.compose.project=own", "--format", "{{.Names}}"))
		return container{host: k, name: name, ip: dockersIP(t, k, name, "own_back")}
	}
	works(1, "up", "-d")
	dockerHas(t, 2, "own_back", true)
	works(2, "up", "-d")
	reach := func(when string) {
		t.Helper()
		a, b := sleeper(1), sleeper(2)
		eventually(t, when+": the hosts' containers reach each other", func() error { return errors.Join(a.pings(t, b.ip), b.pings(t, a.ip)) })
	}
	reach("at first")
	var there []struct{ Options, Labels map[string]string }
	if err := json.Unmarshal([]byte(must(t, 2, "docker", "network", "inspect", "own_back")), &there); err != nil {
		t.Fatal(err)
	}
	if labels := there[0].Labels; len(there[0].Options) > 0 || labels["team"] != "shop" || labels["com.docker.compose.project"] != "own" || labels["com.docker.compose.network"] != "back" {
		t.Errorf("on h2 it has %+v", there[0])
	}
	for round := range 3 {
		works(1, "down", "-t", "1")
		dockerHas(t, 1, "own_back", true) // h2 uses it
		works(1, "up", "-d")
		reach(fmt.Sprintf("after down and up %d", round))
	}
	works(1, "down", "-t", "1")
	dockerHas(t, 1, "own_back", true)
	works(2, "down", "-t", "1")
	clusterHasNone(t, "own_")
	for k := 1; k <= 2; k++ {
		leavesNothing(t, k, before[k])
	}
}
