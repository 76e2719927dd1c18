// Command socketplane-runc is the wrapper runtime that Docker calls, and the OCI hook. It
// is embedded in socketplane, which has the same functions but starts more slowly.
package main

import (
	"context"
	"os"

	"github.com/socketplane/socketplane/agent/oci"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == oci.HookCommand {
		os.Exit(oci.RunHook(context.Background(), os.Args[2:], os.Stdin, os.Stderr))
	}
	os.Exit(oci.RunRuntime(os.Args, os.Environ(), os.Stderr))
}
