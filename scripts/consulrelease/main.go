// Consulrelease FILE downloads the Consul release that install uses
// (cli/setup/release.go), verifies its checksum and makes its program FILE.
// SOCKETPLANE_CONSUL_URL names a mirror with the layout of
// https://releases.hashicorp.com/consul. It gives up quickly where there is no
// way out, since scripts/consul.sh then builds Consul.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/socketplane/socketplane/cli/setup"
)

// mirrorEnv names a mirror of the releases.
const mirrorEnv = "SOCKETPLANE_CONSUL_URL"

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: consulrelease FILE")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := download(ctx, http.DefaultTransport, release(), os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "consul:", err)
		os.Exit(1)
	}
}

// release is the one of install, on the mirror if one is named.
func release() setup.Release {
	r := setup.ConsulRelease()
	if base := os.Getenv(mirrorEnv); base != "" {
		return r.At(base)
	}
	return r
}

func download(ctx context.Context, transport http.RoundTripper, r setup.Release, file string) error {
	if r.URL == "" {
		return errors.New("there is no release of Consul for this kind of machine")
	}
	fmt.Printf("consul: none on the PATH; downloading %s (60 MB)\n", r.URL)
	return setup.FetchConsul(ctx, &http.Client{Transport: impatient{transport}}, r, file)
}
