package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/socketplane/socketplane/agent/api"
)

// checkAllowed refuses early what the agent would refuse whatever the network.
func checkAllowed(allow []string, forwarding bool) error {
	allowed, err := api.ParseAllowed(allow)
	if err == nil && forwarding && len(allowed) == 0 {
		return usagef("--forwarding needs the prefixes from which the container may send for others; name them with --allow-address")
	}
	return err
}

// dropWords say why the switch drops what a container sends, in the order in which
// they are shown. IPv6 is not among them: every Linux container sends some.
var dropWords = []struct{ cause, words string }{
	{"source", "source address not its own"},
	{"arp", "ARP for an address not its own"},
	{"mac", "MAC address not its own"},
	{"other", "neither IPv4 nor ARP"},
}

// droppedText says what was dropped of what an endpoint sent.
func droppedText(d api.Drops) string {
	var parts []string
	for _, w := range dropWords {
		if n := d[w.cause]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s: %d", w.words, n))
		}
	}
	return cmp.Or(strings.Join(parts, ", "), "-")
}

// addDrops asks the agent what was dropped. An agent of an earlier release does not
// know, and endpoints are shown without.
func addDrops(ctx context.Context, svc api.Service, views []endpointView) {
	drops, err := svc.Drops(ctx)
	if err != nil {
		return
	}
	for i, v := range views {
		views[i].Dropped = drops[v.endpoint]
	}
}

// allowedText lists what an endpoint may have beside its own address.
func allowedText(e endpointView) string {
	text := strings.Join(e.Allowed, " ")
	if e.Forwarding {
		text += " (forwarding)"
	}
	return cmp.Or(text, "-")
}

// some says whether any endpoint has what a column shows.
func some(endpoints []endpointView, has func(endpointView) bool) bool {
	return slices.ContainsFunc(endpoints, has)
}
