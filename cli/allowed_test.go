package cli

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/socketplane/socketplane/agent/api"
)

func (s *recordingService) Drops(context.Context) (map[string]api.Drops, error) {
	return s.drops, nil
}

func TestRunAllowsAddresses(t *testing.T) {
	r, err := parseRun(strings.Fields("--allow-address 10.6.0.200 --rm --allow-address=10.99.0.0/16 --forwarding -n web lab --allow-address x"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"10.6.0.200", "10.99.0.0/16"}, r.allow); diff != "" || !r.forwarding {
		t.Errorf("forwarding %t (-want +got):\n%s", r.forwarding, diff)
	}
	if diff := cmp.Diff([]string{"--rm", "--", "lab", "--allow-address", "x"}, r.create); diff != "" {
		t.Errorf("for Docker (-want +got):\n%s", diff)
	}
	if r, err := parseRun(strings.Fields("--forwarding=false lab")); err != nil || r.forwarding {
		t.Errorf("%+v, %v", r, err)
	}
	for argv, says := range map[string]string{
		"--allow-address lab":                                   "no image",
		"--allow-address x lab":                                 "neither",
		"--allow-address 10.6.0.1/16 lab":                       "host bits",
		"--allow-address 224.0.0.1 lab":                         "224.0.0.0/3",
		"--allow-address= lab":                                  "neither",
		"--forwarding lab":                                      "--allow-address",
		"--forwarding=maybe lab":                                "true or false",
		strings.Repeat("--allow-address 10.6.0.9 ", 17) + "lab": "17",
	} {
		if _, err := parseRun(strings.Fields(argv)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%.60s: %v", argv, err)
		}
	}
}

func TestConnectAllowsAddresses(t *testing.T) {
	svc := testService()
	socket := serveTest(t, svc)
	connect := []string{"connect", "-n", "web", "--netns", "/run/netns/blue", "--id", "blue"}
	if code, _, errOut := command(t, socket, append(connect, "--allow-address", "10.6.0.200", "--allow-address", "10.6.1.0/24", "--forwarding")...); code != 0 {
		t.Fatal(errOut)
	}
	if got := svc.attached[0]; strings.Join(got.AllowAddresses, " ") != "10.6.0.200 10.6.1.0/24" || !got.Forwarding {
		t.Errorf("asked: %+v", got)
	}
	for _, bad := range [][]string{{"--allow-address", "x"}, {"--allow-address", "127.0.0.1"}, {"--forwarding"}} {
		if code, _, errOut := command(t, socket, append(connect, bad...)...); code != 2 || len(svc.attached) != 1 {
			t.Errorf("%v: exit %d, %s", bad, code, errOut)
		}
	}
}

func TestInfoShowsDrops(t *testing.T) {
	svc := testService()
	svc.endpoints[0].AllowAddresses = []netip.Prefix{netip.MustParsePrefix("10.6.0.200/32"), netip.MustParsePrefix("10.99.0.0/16")}
	svc.endpoints[0].Forwarding = true
	svc.drops = map[string]api.Drops{svc.endpoints[0].ID: {"source": 12, "mac": 3, "ipv6": 7}, "gone": {"arp": 1}}
	socket := serveTest(t, svc)
	for _, args := range [][]string{{"info"}, {"info", "shop"}} {
		code, out, errOut := command(t, socket, args...)
		header, row, _ := strings.Cut(out, "\n")
		if code != 0 || !strings.Contains(header, "ALLOWED") || !strings.HasSuffix(header, "DROPPED") ||
			!strings.Contains(row, "10.6.0.200 10.99.0.0/16 (forwarding)") || !strings.HasSuffix(row, "source address not its own: 12, MAC address not its own: 3\n") {
			t.Errorf("%v: exit %d, %s\n%s", args, code, errOut, out)
		}
	}
	_, out, _ := command(t, socket, "info", "shop", "-o", "json")
	for _, want := range []string{`"allow_addresses": [`, `"10.6.0.200"`, `"forwarding": true`, `"source": 12`, `"ipv6": 7`} {
		if !strings.Contains(out, want) {
			t.Errorf("lacks %s:\n%s", want, out)
		}
	}
	_, out, _ = command(t, socket, "info", "--all")
	if !strings.Contains(out, "ALLOWED") {
		t.Errorf("info --all:\n%s", out)
	}
	// IPv6 alone is no news.
	svc.drops = map[string]api.Drops{svc.endpoints[0].ID: {"ipv6": 7}}
	if _, out, _ := command(t, socket, "info"); strings.Contains(out, "DROPPED") {
		t.Errorf("info:\n%s", out)
	}
}

func (s *recordingService) SetRoutes(_ context.Context, id string, routes []string) (api.Endpoint, error) {
	s.routed = append(s.routed, id+": "+strings.Join(routes, " "))
	return api.Endpoint{}, nil
}

func TestNetworkRoute(t *testing.T) {
	svc := testService()
	prefix := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	svc.endpoints[0].Routes = prefix("10.98.0.0/16")
	svc.remote = []api.Endpoint{{ID: "far", ContainerID: "far", ContainerName: "away", Network: "web", IP: netip.MustParseAddr("10.6.0.65"), Host: "h2", Attached: true, Routes: prefix("10.97.0.0/16")}}
	socket := serveTest(t, svc)
	id := svc.endpoints[0].ID
	for _, c := range []struct {
		args, out, asked string
	}{
		{"add web 10.99.0.0/16 via shop", "10.99.0.0/16 via 10.6.0.2\n", id + ": 10.98.0.0/16 10.99.0.0/16"},
		{"add web 10.98.0.0/16 via 0123456789ab", "10.98.0.0/16 via 10.6.0.2\n", id + ": 10.98.0.0/16"},
		{"rm web 10.98.0.0/16", "10.98.0.0/16\n", id + ": "},
	} {
		svc.routed = nil
		code, out, errOut := command(t, socket, append([]string{"network", "route"}, strings.Fields(c.args)...)...)
		if code != 0 || out != c.out || strings.Join(svc.routed, "\n") != c.asked {
			t.Errorf("%s: exit %d, %q, %s, asked %q", c.args, code, out, errOut, svc.routed)
		}
	}
	svc.routed = nil
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"nonsense", 2, "nonsense"},
		{"add web 10.99.0.0/16", 2, "CONTAINER"},
		{"add web 10.99.0.0/16 by shop", 2, "via"},
		{"add web 10.99.0.1/16 via shop", 2, "host bits"},
		{"add we$b 10.99.0.0/16 via shop", 2, "network name"},
		{"add wab 10.99.0.0/16 via shop", 1, "web"},
		{"add web 10.99.0.0/16 via away", 1, `host "h2"`},
		{"add web 10.99.0.0/16 via shap", 1, "shop"},
		{"rm web 10.97.0.0/16", 1, `host "h2"`},
		{"rm web 10.96.0.0/16", 1, "no route"},
		{"rm other 10.98.0.0/16", 1, "no route"},
	} {
		code, out, errOut := command(t, socket, append([]string{"network", "route"}, strings.Fields(c.args)...)...)
		if code != c.code || out != "" || !strings.Contains(errOut, c.says) || strings.Count(errOut, "\n") != 1 {
			t.Errorf("%s: exit %d, %q, %s", c.args, code, out, errOut)
		}
	}
	if len(svc.routed) != 0 {
		t.Errorf("asked %q", svc.routed)
	}
	_, out, _ := command(t, socket, "network", "info", "web")
	for _, want := range []string{"ROUTE          VIA         NAME   HOST", "10.98.0.0/16   10.6.0.2    shop   h1", "10.97.0.0/16   10.6.0.65   away   h2"} {
		if !strings.Contains(out, want) {
			t.Errorf("lacks %q:\n%s", want, out)
		}
	}
}
