package systemtest

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// Promise: the example of three services on two hosts works as it is written: each
// comes up, is healthy, reaches the others by address over the hosts and by name on
// its own, and its published port answers the outside.
func TestComposeExample(t *testing.T) {
	makeNetwork(t, 3, "shop", "10.44.0.0/24")
	var before [3][]string
	for k := 1; k <= 2; k++ {
		dockerHas(t, k, "shop", true)
		before[k] = traces(t, k)
	}
	file, err := filepath.Abs("../../examples/compose/compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	compose := func(k int, profile string, args ...string) string {
		t.Helper()
		return must(t, k, append([]string{"env", "IMAGE=" + lab.Image, "docker-compose", "-f", file, "--profile", profile}, args...)...)
	}
	t.Cleanup(func() {
		compose(1, "back", "down", "-t", "1")
		compose(2, "front", "down", "-t", "1")
	})
	compose(1, "back", "up", "-d")
	compose(2, "front", "up", "-d")
	for k, name := range map[int]string{1: "db", 2: "web"} {
		eventually(t, name+" is healthy", func() error {
			out := must(t, k, "docker", "ps", "--filter", "label=com.docker.compose.service="+name, "--format", "{{.Status}}")
			if !strings.Contains(out, "(healthy)") {
				return errors.New(out)
			}
			return nil
		})
	}
	for k, url := range map[int]string{3: "http://198.18.0.2:8080/", 1: "http://10.44.0.20/"} { // h3 is not on the network
		eventually(t, fmt.Sprintf("h%d reads %s", k, url), func() error {
			if r := try(t, k, "curl", "-s", "--max-time", "2", url); r.stdout != "42 apples\n" {
				return fmt.Errorf("%q %s", r.stdout, r.stderr)
			}
			return nil
		})
	}
	eventually(t, "its neighbour reads it by name", func() error {
		if out := compose(2, "front", "logs", "watch"); !strings.Contains(out, "42 apples") {
			return errors.New(out)
		}
		return nil
	})
	compose(1, "back", "down", "-t", "1")
	compose(2, "front", "down", "-t", "1")
	for k := 1; k <= 2; k++ {
		leavesNothing(t, k, before[k])
	}
}
