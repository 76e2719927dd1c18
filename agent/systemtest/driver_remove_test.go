package systemtest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// ipamOurs are the options with which Docker makes a network of the cluster.
var ipamOurs = []string{"docker", "network", "create", "-d", "socketplane", "--ipam-driver", "socketplane"}

// clusterHasNone waits until neither the cluster nor Docker on any host has a
// network whose name begins with prefix.
func clusterHasNone(t testing.TB, prefix string) {
	t.Helper()
	eventually(t, "no network "+prefix+"* is left", func() error {
		if left := kv(t, "networks/"+prefix); len(left) > 0 {
			return fmt.Errorf("the cluster has %v", left)
		}
		for k := range cluster.Hosts() {
			if out := must(t, k+1, "docker", "network", "ls", "--filter", "name="+prefix, "--format", "{{.Name}}"); out != "" {
				return fmt.Errorf("docker on h%d has %s", k+1, strings.ReplaceAll(out, "\n", " "))
			}
		}
		return nil
	})
}

// Promise: networks that Docker made and removes one after the other, as
// docker-compose down does, are gone from the cluster and from every host, also when
// they are older than what the agent remembers of their making.
func TestRemovedNetworksStayRemoved(t *testing.T) {
	before := traces(t, 1)
	for round := range 6 {
		var names []string
		for i := range 6 {
			name := fmt.Sprintf("gone%d-%d", round, i)
			must(t, 1, append(ipamOurs, "--subnet", fmt.Sprintf("10.%d.%d.0/24", 185+round, i), name)...)
			names = append(names, name)
		}
		for _, name := range names {
			dockerHas(t, 2, name, true)
		}
		restartAgent(t, 1) // it remembers nothing of their making
		eventually(t, "h1's agent has compared its networks", func() error {
			if r := try(t, 1, "socketplane", "network", "create", "probe", "10.199.0.0/24"); r.code != 0 {
				return errors.New(r.stderr)
			}
			return nil
		})
		dockerHas(t, 1, "probe", true)
		sp(t, 1, "network", "delete", "probe")
		dockerHas(t, 1, "probe", false)
		must(t, 1, append([]string{"docker", "network", "rm"}, names...)...)
		clusterHasNone(t, fmt.Sprintf("gone%d-", round))
	}
	leavesNothing(t, 1, before)
}
