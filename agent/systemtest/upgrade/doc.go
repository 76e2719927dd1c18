// Package upgrade proves that hosts of different releases are one cluster: it upgrades
// them one by one, as docs/upgrade.md says, and takes one back.
package upgrade

import (
	"regexp"
	"strings"
)

// step is a command of the page.
type step struct {
	host, command string
	line          int      // of the page, from 1
	shown         []string // what the page says that it prints; nothing: that does not matter
}

// prompt is how a line begins that is typed on a host.
var prompt = regexp.MustCompile(`^(h[0-9])# (.+)$`)

// steps gives the commands of the page below each of its headings, in their order.
func steps(page string) map[string][]step {
	found := map[string][]step{}
	heading, fenced := "", false
	for n, l := range strings.Split(page, "\n") {
		if title, ok := strings.CutPrefix(l, "## "); ok && !fenced {
			heading = title
			continue
		}
		if strings.HasPrefix(l, "```") {
			fenced = !fenced
			continue
		}
		if !fenced || l == "" {
			continue
		}
		list := found[heading]
		if m := prompt.FindStringSubmatch(l); m != nil {
			found[heading] = append(list, step{host: m[1], command: m[2], line: n + 1})
		} else if len(list) > 0 {
			list[len(list)-1].shown = append(list[len(list)-1].shown, l)
		}
	}
	return found
}

// version is one of an agent, in the page or in an output.
var version = regexp.MustCompile(`\b(v[0-9]+\.[0-9]+\.[0-9]+[-.0-9a-z]*|[0-9a-f]{7}|unknown)( \(behind\)|$)`)

// plain is an output without what is another in each run. Columns are as wide as
// their widest.
func plain(line string) string {
	return version.ReplaceAllString(strings.Join(strings.Fields(line), " "), "VERSION$2")
}
