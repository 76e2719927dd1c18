package ovs

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// Cause says why the guard dropped what an endpoint sent.
type Cause string

// The causes. Each has a flow of its own for each endpoint, whose packets the
// switch counts anyway.
const (
	CauseSource Cause = "source" // IPv4 from an address that is neither its own nor allowed
	CauseARP    Cause = "arp"    // ARP that names another address or MAC address as the sender's
	CauseMAC    Cause = "mac"    // another MAC address than its own
	CauseIPv6   Cause = "ipv6"   // networks are IPv4
	CauseOther  Cause = "other"  // an 802.1Q tag, or neither IPv4 nor ARP
)

// dropped are the guard's flows that count. Those that let pass stand before them.
var dropped = []struct {
	cause    Cause
	priority int
	match    string // after the port's and, unless that is what is wrong, the MAC address
}{
	{CauseSource, 51, "," + untagged + ",ip"},
	{CauseARP, 52, "," + untagged + ",arp"},
	{CauseIPv6, 53, "," + untagged + ",ipv6"},
	{CauseOther, 42, ""},
	{CauseMAC, 31, ""},
}

// countDrops renders the flows that count what the guard drops of an endpoint.
func (r *rendering) countDrops(l Local) {
	for _, d := range dropped {
		match := fmt.Sprintf("in_port=%d", l.OFPort)
		if d.cause != CauseMAC {
			match += ",dl_src=" + l.MAC
		}
		r.add(tableGuard, d.priority, match+d.match, "drop")
	}
}

// Drops says how many packets of each endpoint's port the guard has dropped since
// the endpoint was attached, or the switch was started, by cause. It asks the switch
// each time, and keeps nothing.
func (s *Switch) Drops(ctx context.Context) (map[int]map[Cause]uint64, error) {
	out, err := s.runOFCtl(ctx, "", "dump-flows", s.controlTarget(), fmt.Sprintf("table=%d,cookie=%#x/-1", tableGuard, Cookie))
	if err != nil {
		return nil, fmt.Errorf("read the counters of bridge %q: %w", s.cfg.Bridge, err)
	}
	return parseDrops(out), nil
}

// parseDrops reads the lines of dump-flows that belong to countDrops:
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
