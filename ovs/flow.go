package ovs

import (
	"fmt"
	"strconv"
	"strings"
)

// Cookie marks our flows ("sock"). We never change flows with another cookie.
const Cookie uint64 = 0x736f636b

// Flow is one OpenFlow flow in the syntax of ovs-ofctl(8). The first three fields
// identify it within the bridge.
type Flow struct {
	Table    int
	Priority int
	Match    string // empty matches everything
	Actions  string
}

// flowKey identifies a flow within the bridge.
type flowKey struct {
	table, priority int
	match           string
}

func (f Flow) key() flowKey { return flowKey{f.Table, f.Priority, f.Match} }

func (f Flow) String() string {
	return fmt.Sprintf("%s actions=%s", strings.TrimSuffix(fmt.Sprintf("table=%d,cookie=%#x,%s", f.Table, Cookie, f.rule()), ","), f.Actions)
}

func (f Flow) rule() string {
	if f.Match == "" {
		return "priority=" + strconv.Itoa(f.Priority)
	}
	return "priority=" + strconv.Itoa(f.Priority) + "," + f.Match
}

// addLine and deleteLine return commands of a flow file; see "Flow Syntax" and add-flows
// in ovs-ofctl(8). Adding an existing flow replaces its actions.
func (f Flow) addLine() string { return "add " + f.String() }

func (f Flow) deleteLine() string { return fmt.Sprintf("delete_strict table=%d,%s", f.Table, f.rule()) }

// changes returns the commands that turn the flows have into want. First come missing and
// different flows, in the order of want, then removals. So no wanted flow is missing in
// between.
func changes(have map[flowKey]Flow, want []Flow) []string {
	var lines []string
	keep := make(map[flowKey]bool, len(want))
	for _, f := range want {
		keep[f.key()] = true
		if old, ok := have[f.key()]; !ok || old.Actions != f.Actions {
			lines = append(lines, f.addLine())
		}
	}
	var gone []string
	for k, f := range have {
		if !keep[k] {
			gone = append(gone, f.deleteLine())
		}
	}
	return append(lines, gone...)
}

// parseDiff turns the output of `ovs-ofctl diff-flows SWITCH FILE` into the commands that
// make the switch equal to the file. A line is
//
//	-table=1 priority=100,in_port=5 cookie=0x9 actions=drop
//
// without the table if it is 0, and without the cookie if it is 0. parseDiff skips flows
// with another cookie, which the file does not contain.
func parseDiff(out string) ([]string, error) {
	var adds, deletes []string
	added := map[string]bool{}
	type removal struct{ rule, line string }
	var removals []removal
	for line := range strings.Lines(out) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			continue
		}
		head, actions, ok := strings.Cut(line[1:], " actions=")
		if !ok || line[0] != '+' && line[0] != '-' {
			return nil, fmt.Errorf("diff-flows printed %.200q", line)
		}
		rule, ours := "", false
		for field := range strings.FieldsSeq(head) {
			if cookie, is := strings.CutPrefix(field, "cookie="); is {
				n, err := strconv.ParseUint(cookie, 0, 64)
				ours = err == nil && n == Cookie
				continue
			}
			rule += " " + field
		}
		if line[0] == '+' {
			added[rule] = true
			adds = append(adds, fmt.Sprintf("add%s cookie=%#x actions=%s", rule, Cookie, actions))
		} else if ours {
			removals = append(removals, removal{rule, "delete_strict" + rule})
		}
	}
	for _, r := range removals {
		if !added[r.rule] {
			deletes = append(deletes, r.line)
		}
	}
	return append(adds, deletes...), nil
}
