// Package clustertest proves how a cluster forms, on real hosts in namespaces
// that have nothing but Open vSwitch and the program: the tests follow each
// other, each in the cluster that the last has left.
package clustertest

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// hosts are h1 to h5, with no agent, no Consul and no dockerd running.
var hosts *lab.Lab

func TestMain(m *testing.M) { os.Exit(runMain(m)) }

func runMain(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var err error
	if hosts, err = lab.Up(ctx, lab.Options{Hosts: 5, Bare: true, NoDocker: true, Out: os.Stderr}); err != nil {
		fmt.Fprintln(os.Stderr, "clustertest: the lab does not come up:", err)
		return 1
	}
	defer func() {
		if err := hosts.Down(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, "clustertest: the lab does not go down:", err)
		}
	}()
	return m.Run()
}
