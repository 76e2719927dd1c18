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
