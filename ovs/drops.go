package ovs

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// Cause is the reason why the guard table dropped packets of an endpoint.
type Cause string

// The causes. Each has its own flow for each endpoint, because the switch counts packets
// per flow.
const (
	CauseSource Cause = "source" // IPv4 from an address that is neither the endpoint's own nor allowed
	CauseARP    Cause = "arp"    // ARP with another sender IP or MAC address
	CauseMAC    Cause = "mac"    // a source MAC address that is not the endpoint's
	CauseIPv6   Cause = "ipv6"   // networks are IPv4
	CauseOther  Cause = "other"  // an 802.1Q tag, or none of IPv4, IPv6 and ARP
)

// dropped are the counting flows of the guard table. The flows that accept packets have
// higher priorities.
var dropped = []struct {
	cause    Cause
	priority int
	match    string // appended to the port match and, except for CauseMAC, the MAC address match
}{
	{CauseSource, 51, "," + untagged + ",ip"},
	{CauseARP, 52, "," + untagged + ",arp"},
	{CauseIPv6, 53, "," + untagged + ",ipv6"},
	{CauseOther, 42, ""},
	{CauseMAC, 31, ""},
}

// countDrops renders the flows that count the dropped packets of an endpoint.
func (r *rendering) countDrops(l Local) {
	for _, d := range dropped {
		match := fmt.Sprintf("in_port=%d", l.OFPort)
		if d.cause != CauseMAC {
			match += ",dl_src=" + l.MAC
		}
		r.add(tableGuard, d.priority, match+d.match, "drop")
	}
}

// Drops returns the number of packets that the guard table has dropped, by OpenFlow port
// and cause. The counters start when the endpoint is attached or the switch starts. Drops
// asks the switch on each call and caches nothing.
func (s *Switch) Drops(ctx context.Context) (map[int]map[Cause]uint64, error) {
	out, err := s.runOFCtl(ctx, "", "dump-flows", s.controlTarget(), fmt.Sprintf("table=%d,cookie=%#x/-1", tableGuard, Cookie))
	if err != nil {
		return nil, fmt.Errorf("read the counters of bridge %q: %w", s.cfg.Bridge, err)
	}
	return parseDrops(out), nil
}

// parseDrops parses the lines of dump-flows that belong to the flows of countDrops:
//
//	cookie=0x736f636b, duration=1.2s, table=1, n_packets=3, n_bytes=9, priority=31,in_port=5 actions=drop
func parseDrops(out string) map[int]map[Cause]uint64 {
	causes := map[int]Cause{}
	for _, d := range dropped {
		causes[d.priority] = d.cause
	}
	drops := map[int]map[Cause]uint64{}
	for line := range strings.Lines(out) {
		head, actions, _ := strings.Cut(strings.TrimSpace(line), " actions=")
		if actions != "drop" {
			continue
		}
		fields := map[string]uint64{}
		for field := range strings.FieldsFuncSeq(head, func(c rune) bool { return c == ',' || c == ' ' }) {
			key, value, _ := strings.Cut(field, "=")
			if n, err := strconv.ParseUint(value, 10, 64); err == nil {
				fields[key] = n
			}
		}
		cause, ok := causes[int(min(fields["priority"], 1<<16))]
		port := int(min(fields["in_port"], maxOFPort))
		if !ok || port == 0 || fields["n_packets"] == 0 {
			continue
		}
		if drops[port] == nil {
			drops[port] = map[Cause]uint64{}
		}
		drops[port][cause] = fields["n_packets"]
	}
	return drops
}
