package systemtest

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// proberMAC is the MAC address that each life of an agent has for answers to its probes.
var proberMAC = regexp.MustCompile(`dl_dst=[0-9a-f:]+,(dl_type=0x88b5)`)

// footprint is all that SocketPlane has made on a host and in the cluster: what
// the store holds, the ports of the bridge, the interfaces and the filter rules.
func footprint(t testing.TB, k int) []string {
	t.Helper()
	var all []string
	add := func(what, text string) {
		for l := range strings.Lines(text) {
			all = append(all, what+" "+strings.TrimSpace(l))
		}
	}
	// A host's record tells its routes, which come and go with Docker's.
	for key := range kv(t, "") {
		if !strings.HasPrefix(key, "hosts/") {
			add("key", key)
		}
	}
	add("port", must(t, k, "ovs-vsctl", "-t", "5", "list-ports", "docker0-ovs"))
	for l := range strings.Lines(must(t, k, "ip", "-br", "link")) {
		if name := strings.Fields(l)[0]; strings.HasPrefix(name, "sp") {
			add("link", strings.Split(name, "@")[0])
		}
	}
	for l := range strings.Lines(must(t, k, "ovs-ofctl", "-O", "OpenFlow13", "--no-stats", "dump-flows", "docker0-ovs")) {
		// Remembered for 3 s: what was asked for in vain.
		if !strings.Contains(l, "OFPST_FLOW") && !strings.Contains(l, "cookie=0x736f636b02") {
			add("flow", proberMAC.ReplaceAllString(l, "$1"))
		}
	}
	slices.Sort(all)
	return all
}

// differs says what is in one footprint and not in the other, but for lines
// that hold one of the allowed texts.
func differs(before, after []string, allowed ...string) error {
	allow := func(line string) bool {
		return slices.ContainsFunc(allowed, func(a string) bool { return strings.Contains(line, a) })
	}
	var diff []string
	for _, l := range after {
		if !slices.Contains(before, l) && !allow(l) {
			diff = append(diff, "+ "+l)
		}
	}
	for _, l := range before {
		if !slices.Contains(after, l) && !allow(l) {
			diff = append(diff, "- "+l)
		}
	}
	if len(diff) > 0 {
		return fmt.Errorf("changed:\n%s", strings.Join(diff, "\n"))
	}
	return nil
}
