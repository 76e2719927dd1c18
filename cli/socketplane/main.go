// Command socketplane joins the hosts of a cluster into one container network. It is the
// command line, the agent, the CNI plugin (under the name socketplane-cni), the netavark
// plugin (socketplane-netavark), and the runtime that Docker calls (if socketplane-runc is
// a link to it).
package main

import (
	"context"
	"os"

	"github.com/socketplane/socketplane/agent/cni"
	"github.com/socketplane/socketplane/agent/netavark"
	"github.com/socketplane/socketplane/agent/oci"
	"github.com/socketplane/socketplane/cli"
)

func main() {
	// These four come first, because the start of a container waits for them.
	if oci.IsRuntime(os.Args[0]) {
		os.Exit(oci.RunRuntime(os.Args, os.Environ(), os.Stderr))
	}
	if cni.IsPlugin(os.Args[0]) {
		os.Exit(cni.Main())
	}
	if netavark.IsPlugin(os.Args[0]) {
		os.Exit(netavark.Main(os.Args[1:], cli.Version()))
	}
	if len(os.Args) > 1 && os.Args[1] == oci.HookCommand {
		os.Exit(oci.RunHook(context.Background(), os.Args[2:], os.Stdin, os.Stderr))
	}
	os.Exit(cli.Main(context.Background(), os.Args[1:]))
}
