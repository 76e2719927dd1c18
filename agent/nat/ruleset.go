package nat

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// ruleset is what iptables-save prints: table, chain, rules in order.
type ruleset map[string]map[string][]string

// parseSave reads the output of iptables-save. Lines it does not know, such as
// comments and counters, are passed over: only our own chains and the jumps to
// them are looked at.
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
			name, _, _ := strings.Cut(text[1:], " ")
			if _, known := table[name]; !known {
				table[name] = nil
			}
		case strings.HasPrefix(text, "-A "):
			name, rule, _ := strings.Cut(text[len("-A "):], " ")
			table[name] = append(table[name], rule)
		}
	}
	return all
}

// difference is the input for iptables-restore --noflush that makes have into
// want; empty when nothing differs.
func difference(have ruleset, want []chain) string {
	return script(want, func(c chain) []string {
		var lines []string
		table := have[c.table]
		rules, exists := table[c.name]
		if !exists || !slices.Equal(rules, c.rules) {
			// Naming a chain of our own makes it, or empties it.
			lines = append(lines, fmt.Sprintf(":%s - [0:0]", c.name))
			for _, rule := range c.rules {
				lines = append(lines, fmt.Sprintf("-A %s %s", c.name, rule))
			}
		}
		for _, from := range c.jumpers(table) {
			if n := count(table[from], c.jump()); n == 1 && table[from][0] == c.jump() {
				continue
			}
			lines = append(lines, c.dropJumps(table, from)...)
			lines = append(lines, fmt.Sprintf("-I %s 1 %s", from, c.jump()))
		}
		return lines
	})
}

// removal is the input that takes everything of ours out of have.
func removal(have ruleset) string {
	return script(ours(), func(c chain) []string {
		table := have[c.table]
		var lines []string
		for _, from := range c.jumpers(table) {
			lines = append(lines, c.dropJumps(table, from)...)
		}
		if _, exists := table[c.name]; exists {
			lines = append(lines, "-F "+c.name, "-X "+c.name)
		}
		return lines
	})
}

// script joins the lines of all chains, table by table. The chains of a table
// are neighbours.
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

func (c chain) jump() string { return "-j " + c.name }

// jumpers are the chains that jump, or have to jump, to c.
func (c chain) jumpers(table map[string][]string) []string {
	all := slices.Clone(c.parents)
	for _, guest := range c.guests {
		if _, exists := table[guest]; exists {
			all = append(all, guest)
		}
	}
	return all
}

// dropJumps deletes every jump from a chain to c.
func (c chain) dropJumps(table map[string][]string, from string) []string {
	var lines []string
	for range count(table[from], c.jump()) {
		lines = append(lines, fmt.Sprintf("-D %s %s", from, c.jump()))
	}
	return lines
}

func count(rules []string, rule string) int {
	n := 0
	for _, r := range rules {
		if r == rule {
			n++
		}
	}
	return n
}
