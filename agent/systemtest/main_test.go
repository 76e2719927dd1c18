// Package systemtest proves the promises of the whole: several real hosts in
// namespaces (see the lab), each with its own Open vSwitch, Consul, dockerd and
// agent, and nothing that pretends.
package systemtest

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// cluster is the one lab that all tests of this package share. Each test makes
// networks and containers of its own and takes them away.
var cluster *lab.Lab

// onlyOn3 is a route that h3 has, and no other host; see TestBadNetworks.
const onlyOn3 = "10.71.0.0/16"

func TestMain(m *testing.M) { os.Exit(runMain(m)) }

func runMain(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var err error
	if cluster, err = lab.Up(ctx, lab.Options{Hosts: 3, Out: os.Stderr}); err != nil {
		fmt.Fprintln(os.Stderr, "systemtest: the lab does not come up:", err)
		return 1
	}
	defer func() {
		if err := cluster.Down(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, "systemtest: the lab does not go down:", err)
		}
	}()
	if _, err := cluster.Host(3).Exec(ctx, "ip", "route", "add", "blackhole", onlyOn3); err != nil {
		fmt.Fprintln(os.Stderr, "systemtest:", err)
		return 1
	}
	return m.Run()
}
