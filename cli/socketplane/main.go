// Command socketplane joins the hosts of a cluster into one container network.
// It is the command line, the agent, the wrapper runtime that Docker calls
// (under the name socketplane-runc) and the OCI hook.
package main

import (
	"context"
	"os"

	"github.com/socketplane/socketplane/agent/cni"
	"github.com/socketplane/socketplane/agent/docker"
	"github.com/socketplane/socketplane/cli"
)

func main() {
	// A container's start waits for these three, so they come before all else.
	if docker.IsRuntime(os.Args[0]) {
		os.Exit(docker.RunRuntime(os.Args, os.Environ(), os.Stderr))
	}
	if cni.IsPlugin(os.Args[0]) {
		os.Exit(cni.Main())
	}
	if len(os.Args) > 1 && os.Args[1] == docker.HookCommand {
		os.Exit(docker.RunHook(context.Background(), os.Args[2:], os.Stdin, os.Stderr))
	}
	os.Exit(cli.Main(context.Background(), os.Args[1:]))
}
