package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/socketplane/socketplane/agent/api"
)

// checkAllowed returns the errors that the agent would return for any network.
func checkAllowed(allow []string, forwarding bool) error {
	allowed, err := api.ParseAllowed(allow)
	if err == nil && forwarding && len(allowed) == 0 {
		return usagef("--forwarding needs the prefixes from which the container may send for others; name them with --allow-address")
	}
	return err
}

// dropWords describes the causes of dropped packets, in the order of display. IPv6 is not
// included, because every Linux container sends some.
var dropWords = []struct{ cause, words string }{
	{"source", "source address not its own"},
	{"arp", "ARP for an address not its own"},
	{"mac", "MAC address not its own"},
	{"other", "neither IPv4 nor ARP"},
}

// droppedText describes the dropped packets of an endpoint.
func droppedText(d api.Drops) string {
	var parts []string
	for _, w := range dropWords {
		if n := d[w.cause]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s: %d", w.words, n))
		}
	}
	return cmp.Or(strings.Join(parts, ", "), "-")
}

// addDrops adds the counts of dropped packets to views. It leaves them out on error,
// because an agent of an earlier release does not have them.
func addDrops(ctx context.Context, svc api.Service, views []endpointView) {
	drops, err := svc.Drops(ctx)
	if err != nil {
		return
	}
	for i, v := range views {
		views[i].Dropped = drops[v.endpoint]
	}
}

// allowedText lists the addresses that an endpoint may use beside its own.
func allowedText(e endpointView) string {
	text := strings.Join(e.Allowed, " ")
	if e.Forwarding {
		text += " (forwarding)"
	}
	return cmp.Or(text, "-")
}

// some reports whether has is true for any endpoint. A column is shown only in that case.
func some(endpoints []endpointView, has func(endpointView) bool) bool {
	return slices.ContainsFunc(endpoints, has)
}
