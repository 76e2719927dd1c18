package nat

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// ruleset is the output of iptables-save: rules in order, by table and chain.
type ruleset map[string]map[string][]string

// policyOf returns the key of a built-in chain's policy in a ruleset. No chain name
// starts with a colon.
func policyOf(chain string) string { return ":" + chain }

// parseSave parses the output of iptables-save. It skips other lines, such as comments,
// because only our own chains and the jumps to them matter.
func parseSave(out []byte) ruleset {
	all := ruleset{}
	table := map[string][]string{}
	for line := range bytes.Lines(out) {
		text := strings.TrimSpace(string(line))
		switch {
		case strings.HasPrefix(text, "*"):
			table = map[string][]string{}
			all[text[1:]] = table
		case strings.HasPrefix(text, ":"):
			name, rest, _ := strings.Cut(text[1:], " ")
			if _, known := table[name]; !known {
				table[name] = nil
			}
			policy, _, _ := strings.Cut(rest, " ")
			table[policyOf(name)] = []string{policy}
		case strings.HasPrefix(text, "-A "):
			name, rule, _ := strings.Cut(text[len("-A "):], " ")
			table[name] = append(table[name], rule)
		}
	}
	return all
}

// difference returns the input for iptables-restore --noflush that turns have into want,
// or "" if nothing differs.
func difference(have ruleset, want []chain) string {
	return script(want, func(c chain) []string {
		var lines []string
		table := have[c.table]
		rules, exists := table[c.name]
		if !exists || !slices.Equal(rules, c.rules) {
			lines = append(lines, c.lines()...)
		}
		if parent := c.parents[0].name; c.policy != "" && !slices.Equal(table[policyOf(parent)], []string{c.policy}) {
			// Declaring a built-in chain sets its policy and, with --noflush, keeps its
			// rules.
			lines = append(lines, fmt.Sprintf(":%s %s [0:0]", parent, c.policy))
		}
		for _, from := range c.jumpers(table) {
			jumps, want := c.jumpsFrom(table, from.name), c.jump(from)
			if len(jumps) == 1 && jumps[0] == want && table[from.name][0] == want {
				continue
			}
			lines = append(lines, c.dropJumps(table, from.name)...)
			lines = append(lines, fmt.Sprintf("-I %s 1 %s", from.name, want))
		}
		return lines
	})
}

// lines returns the lines that create the chain or replace it. Declaring a chain of our
// own empties it.
func (c chain) lines() []string {
	lines := make([]string, 0, len(c.rules)+1)
	lines = append(lines, fmt.Sprintf(":%s - [0:0]", c.name))
	for _, rule := range c.rules {
		lines = append(lines, fmt.Sprintf("-A %s %s", c.name, rule))
	}
	return lines
}

// changes returns the input that turns the rules of the known chains into the wanted
// ones. ok is false if more than rules differ.
func changes(known, want []chain) (input string, ok bool) {
	if !slices.EqualFunc(known, want, func(k, w chain) bool { return k.table == w.table && k.name == w.name && k.policy == w.policy }) {
		return "", false
	}
	i := -1
	return script(want, func(c chain) []string {
		if i++; slices.Equal(known[i].rules, c.rules) {
			return nil
		}
		return c.lines()
	}), true
}

// removal returns the input that removes everything of ours from have.
func removal(have ruleset) string {
	return script(ours(), func(c chain) []string {
		table := have[c.table]
		var lines []string
		for _, from := range c.jumpers(table) {
			lines = append(lines, c.dropJumps(table, from.name)...)
		}
		if _, exists := table[c.name]; exists {
			lines = append(lines, "-F "+c.name, "-X "+c.name)
		}
		return lines
	})
}

// script joins the lines of all chains, table by table. Chains of one table must be
// adjacent.
func script(chains []chain, lines func(chain) []string) string {
	var b strings.Builder
	table := ""
	for _, c := range chains {
		all := lines(c)
		if len(all) == 0 {
			continue
		}
		if c.table != table {
			if table != "" {
				b.WriteString("COMMIT\n")
			}
			table = c.table
			fmt.Fprintf(&b, "*%s\n", table)
		}
		b.WriteString(strings.Join(all, "\n") + "\n")
	}
	if table != "" {
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

func (c chain) jump(from parent) string {
	return strings.TrimPrefix(from.match+" -j "+c.name, " ")
}

// jumpers returns the chains that jump, or must jump, to c.
func (c chain) jumpers(table map[string][]string) []parent {
	all := slices.Clone(c.parents)
	for _, guest := range c.guests {
		if _, exists := table[guest]; exists {
			all = append(all, parent{name: guest})
		}
	}
	return all
}

// jumpsFrom returns the rules of a chain that jump to c, whatever they match: an older
// version of ours may have used another match.
func (c chain) jumpsFrom(table map[string][]string, from string) []string {
	var jumps []string
	for _, rule := range table[from] {
		if rule == "-j "+c.name || strings.HasSuffix(rule, " -j "+c.name) {
			jumps = append(jumps, rule)
		}
	}
	return jumps
}

// dropJumps returns the lines that delete every jump from a chain to c.
func (c chain) dropJumps(table map[string][]string, from string) []string {
	var lines []string
	for _, jump := range c.jumpsFrom(table, from) {
		lines = append(lines, fmt.Sprintf("-D %s %s", from, jump))
	}
	return lines
}
