package clustertest

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"testing"
)

// consulSocket is the HTTP API of a host's Consul, which only root may use.
const consulSocket = "/var/lib/socketplane/consul/http.sock"

// consul runs a consul command on host k, as root does with the address that
// `agent status` prints.
func consul(t testing.TB, k int, args ...string) result {
	t.Helper()
	return try(t, k, "", append([]string{"env", "CONSUL_HTTP_ADDR=unix://" + consulSocket, "consul"}, args...)...)
}

// mustConsul is consul, which has to succeed.
func mustConsul(t testing.TB, k int, args ...string) string {
	t.Helper()
	r := consul(t, k, args...)
	if r.code != 0 {
		t.Fatalf("h%d: consul %q: exit status %d\n%s%s", k, args, r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// askConsul reads from the API of host k's Consul. A unix socket is a file, and the
// test sees the hosts' files: no program has to be started there.
func askConsul(k int, path string, into any) error {
	socket := filepath.Join(hosts.Host(k).Dir(), "lib", "socketplane", "consul", filepath.Base(consulSocket))
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://consul/v1/"+path, nil)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("h%d: Consul answers %s with %s", k, path, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}
