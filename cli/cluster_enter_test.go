package cli

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/socketplane/socketplane/agent/api"
)

// movingCluster takes every place that it is asked for, a life later.
type movingCluster struct {
	api.ClusterService
	place api.Place
}

func (c *movingCluster) Place(context.Context) (api.Place, error) { return c.place, nil }

// to answers as an agent does that is about to begin anew, and begins.
func (c *movingCluster) to(is, cluster, iface string) (api.Place, error) {
	answer := c.place
	answer.Changing = true
	c.place.Is, c.place.Cluster, c.place.Iface = is, cluster, iface
	c.place.Life++
	return answer, nil
}

func (c *movingCluster) Bootstrap(context.Context, api.BootstrapRequest) (api.Place, error) {
	if c.place.Cluster != "" {
		return c.place, nil
	}
	return c.to(api.PlaceBootstrapped, "begun", c.place.Iface)
}

func (c *movingCluster) Join(context.Context, api.JoinRequest) (api.Place, error) {
	return c.to(api.PlaceJoined, "joined", c.place.Iface)
}

func (c *movingCluster) Leave(context.Context, api.LeaveRequest) (api.Place, error) {
	return c.to(api.PlaceAlone, "", c.place.Iface)
}

func (c *movingCluster) Bind(_ context.Context, req api.BindRequest) (api.Place, error) {
	return c.to(c.place.Is, c.place.Cluster, req.Iface)
}

// What changes a host's place says so, in words and in JSON.
func TestPlaceChanges(t *testing.T) {
	const words, asJSON = "", "-o json"
	for _, tt := range []struct{ args, format, want string }{
		{"cluster bootstrap", words, "cluster begun begins on this host, at 198.18.0.1 (eth0)\nanother host joins it with its token (socketplane cluster token):\n  socketplane cluster join 198.18.0.1\n"},
		{"cluster join 198.18.0.2", words, "this host is in cluster joined, at 198.18.0.1 (eth0)\n"},
		{"cluster leave", words, "this host has left cluster old\n"},
		{"cluster bind eth1", words, "tunnels are at 198.18.0.1 (eth1)\n"},
		{"cluster bootstrap", asJSON, placeJSON(api.PlaceBootstrapped, "begun", "eth0")},
		{"cluster join 198.18.0.2", asJSON, placeJSON(api.PlaceJoined, "joined", "eth0")},
		{"cluster leave", asJSON, placeJSON(api.PlaceAlone, "", "eth0")},
		{"cluster bind eth1", asJSON, placeJSON(api.PlaceAlone, "", "eth1")},
	} {
		t.Run(strings.TrimSpace(tt.args+" "+tt.format), func(t *testing.T) {
			from := ""
			if tt.args == "cluster leave" {
				from = "old"
			}
			svc := &movingCluster{place: api.Place{Is: api.PlaceAlone, Cluster: from, Iface: "eth0", Address: netip.MustParseAddr("198.18.0.1"), Life: 1, Ready: true}}
			code, out, errOut := command(t, serveCluster(t, svc), strings.Fields(tt.args+" "+tt.format)...)
			if code != 0 || errOut != "" {
				t.Fatalf("exit %d, %s", code, errOut)
			}
			if diff := cmp.Diff(tt.want, out); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// placeJSON is what a host's second place looks like; the field names are stable.
func placeJSON(is, cluster, iface string) string {
	return `{
  "is": "` + is + `",
  "cluster": "` + cluster + `",
  "server": false,
  "iface": "` + iface + `",
  "address": "198.18.0.1",
  "life": 2,
  "ready": true,
  "changing": false,
  "waiting": "",
  "insecure": false
}
`
}

// serveCluster puts svc on a socket and gives its path.
func serveCluster(t *testing.T, svc api.ClusterService) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: api.NewClusterHandler(svc, slog.New(slog.DiscardHandler))}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return socket
}
