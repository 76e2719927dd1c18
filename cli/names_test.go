package cli

import (
	"context"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/api"
)

// aCluster has a container on another host.
func aCluster() *recordingService {
	svc := testService()
	web2 := testNetwork()
	web2.ID = "webshop"
	svc.networks = append(svc.networks, web2)
	svc.remote = []api.Endpoint{
		{
			ID: "c9", ContainerID: "c9", ContainerName: "db", Network: "web", IP: netip.MustParseAddr("10.6.0.64"), MAC: "02:42:0a:06:00:40", Host: "h2", Attached: true,
			Ports: []api.PortMapping{{Proto: "tcp", HostPort: 8080, ContainerPort: 80}},
		},
		{ID: "x9", ContainerID: "x9", Network: "webshop", IP: netip.MustParseAddr("10.7.0.2"), MAC: "02:42:0a:07:00:02", Host: "h2", Attached: true},
	}
	return svc
}

// TestAllHosts: what other hosts have is shown where it is asked for, and only there.
func TestAllHosts(t *testing.T) {
	socket := serveTest(t, aCluster())
	for _, tt := range []struct {
		args      string
		has, lack []string
	}{
		{"info", []string{"shop"}, []string{"db", "blue", "h2"}},
		{"ps", []string{"shop"}, []string{"db", "blue"}},
		{"info --stopped", []string{"shop", "blue"}, []string{"db"}},
		{"info --all", []string{"HOST", "h1", "shop", "h2", "db", "10.6.0.64", "0.0.0.0:8080->80/tcp", "blue", "stopped", "x9"}, nil},
		{"ps -a -o json", []string{`"container_name": "db"`, `"host": "h2"`, `"stopped": true`}, nil},
		{"network info web", []string{"10.6.0.0/16", "h1", "shop", "h2", "db", "stopped"}, []string{"x9"}},
		{"network inspect web -o json", []string{`"id": "web"`, `"endpoints": [`, `"container_name": "db"`}, []string{"x9"}},
		{"network ls", []string{"ENDPOINTS", "1450   3", "1450   1"}, nil},
	} {
		code, out, errOut := command(t, socket, strings.Fields(tt.args)...)
		if code != 0 {
			t.Errorf("%s: exit %d, %s", tt.args, code, errOut)
		}
		for _, s := range tt.has {
			if !strings.Contains(out, s) {
				t.Errorf("%s lacks %q:\n%s", tt.args, s, out)
			}
		}
		for _, s := range tt.lack {
			if strings.Contains(out, s) {
				t.Errorf("%s shows %q:\n%s", tt.args, s, out)
			}
		}
	}
	nobody := filepath.Join(t.TempDir(), "none.sock")
	for _, args := range []string{"info --all", "network info web", "network list"} {
		if code, _, errOut := command(t, nobody, strings.Fields(args)...); code != exitUnreachable {
			t.Errorf("%s without an agent: exit %d, %s", args, code, errOut)
		}
	}
	if code, _, errOut := command(t, socket, "info", "--all", "shop"); code != exitUsage || !strings.Contains(errOut, "leave") {
		t.Errorf("info --all shop: exit %d, %s", code, errOut)
	}
}

// starting knows networks, and no endpoints yet.
type starting struct{ *recordingService }

func (starting) AllEndpoints(context.Context) ([]api.Endpoint, error) {
	return nil, api.Errorf(api.CodeUnavailable, "the agent waits")
}

// TestNetworksWithoutEndpoints: networks are shown also before the endpoints are known.
func TestNetworksWithoutEndpoints(t *testing.T) {
	socket := serveTest(t, starting{aCluster()})
	for _, args := range []string{"network list", "network list -o json", "network info web", "network info web -o json"} {
		code, out, errOut := command(t, socket, strings.Fields(args)...)
		if code != 0 || !strings.Contains(out, "10.6.0.0/16") || strings.Contains(out, "count") || !strings.Contains(errOut, "the agent waits") {
			t.Errorf("%s: exit %d, %s; %s", args, code, out, errOut)
		}
	}
	if code, _, errOut := command(t, socket, "info", "--all"); code != exitFailed || !strings.Contains(errOut, "the agent waits") {
		t.Errorf("info --all: exit %d, %s", code, errOut)
	}
}

// TestDidYouMean: a typo is answered with what was meant, and nothing far-fetched.
func TestDidYouMean(t *testing.T) {
	socket := serveTest(t, aCluster())
	for _, tt := range []struct {
		args string
		code int
		says string // empty: no suggestion
	}{
		{"network info wbe", 1, `did you mean "web"?`},
		{"network info webshpo", 1, `did you mean "webshop"?`},
		{"network info zzz", 1, ""},
		{"network info x", 1, ""},
		{"info shpo", 1, `did you mean "shop"?`},
		{"info elsewhere", 1, ""},
		{"run -n wbe busybox", exitRun, `did you mean "web"?`},
		{"network delete wbe", 1, `did you mean "web"?`},
		{"connect -n wbe --netns /x --id x", 1, `did you mean "web"?`},
		{"netwrok list", 2, `did you mean "network"?`}, //nolint:misspell // as a user mistypes it
		{"network lsit", 2, `did you mean "list"?`},
		{"network remove", 2, ""},
		{"cluster mebmers", 2, `did you mean "members"?`},
	} {
		code, _, errOut := command(t, socket, strings.Fields(tt.args)...)
		if code != tt.code || tt.says == "" && strings.Contains(errOut, "did you mean") || !strings.Contains(errOut, tt.says) || strings.Count(errOut, "\n") != 1 {
			t.Errorf("%s: exit %d, %s", tt.args, code, errOut)
		}
	}
}

// hanging answers no call before its caller has gone.
type hanging struct{ api.Service }

func (hanging) Networks(ctx context.Context) ([]api.Network, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestCompletion: TAB offers networks and containers; without an agent it offers
// nothing, at once and without a word.
func TestCompletion(t *testing.T) {
	socket := serveTest(t, aCluster())
	hangs := serveTest(t, hanging{})
	nobody := filepath.Join(t.TempDir(), "none.sock")
	for _, tt := range []struct {
		socket, args string
		want         []string
	}{
		{socket, "network info |", []string{"web", "webshop"}},
		{socket, "network info |webs", []string{"webshop"}},
		{socket, "network info web |", nil},
		{socket, "network delete |", []string{"web", "webshop"}},
		{socket, "info |", []string{"shop", "blue"}},
		{socket, "disconnect |", []string{"blue"}},
		{socket, "connect -n |", []string{"web", "webshop"}},
		{socket, "connect --network |webs", []string{"webshop"}},
		{socket, "run -n |", []string{"web", "webshop"}},
		{socket, "run -d --network |we", []string{"web", "webshop"}},
		{socket, "run -n web |", nil},
		{socket, "stop |sh", []string{"shop"}},
		{nobody, "network info |", nil},
		{hangs, "network info |", nil},
	} {
		args, word, _ := strings.Cut(tt.args, "|")
		begin := time.Now()
		code, out, errOut := command(t, tt.socket, append(append([]string{"__complete"}, strings.Fields(args)...), word)...)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		got := lines[:len(lines)-1] // the last is cobra's directive
		if code != 0 || !slices.Equal(got, tt.want) && len(got)+len(tt.want) > 0 || !strings.HasPrefix(lines[len(lines)-1], ":") || strings.Contains(errOut, "socketplane:") {
			t.Errorf("%s: exit %d, %q, want %q; %s", tt.args, code, got, tt.want, errOut)
		}
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("%s took %s", tt.args, took)
		}
	}
}
