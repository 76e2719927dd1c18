// Package walk executes a page of the docs: what it shows as typed is typed, on the
// host that its prompt names, and what it shows as the answer is compared with the
// answer. So the page cannot say what the product does not do.
package walk

import (
	"bytes"
	"regexp"
	"strings"
)

// interrupted ends the output of a command that ends by Ctrl-C only.
const interrupted = "^C"

// prompt is how a line begins that is typed on a host.
var prompt = regexp.MustCompile(`^([a-z]+-[0-9]+)\$ (.+)$`)

// step is one command of the page.
type step struct {
	host, command string
	line          int      // of the page, from 1
	shown         []string // what the page says that it prints
	follow        bool     // it ends by Ctrl-C, once all of shown was there
}

// steps are the commands of a page, in order: those in its fenced blocks.
func steps(page []byte) []step {
	var found []step
	fenced := false
	for n, l := range strings.Split(string(page), "\n") {
		if strings.HasPrefix(l, "```") {
			fenced = !fenced
			continue
		}
		if !fenced {
			continue
		}
		if m := prompt.FindStringSubmatch(l); m != nil {
			found = append(found, step{host: m[1], command: m[2], line: n + 1})
			continue
		}
		if len(found) == 0 {
			continue
		}
		s := &found[len(found)-1]
		if l == interrupted {
			s.follow = true
			continue
		}
		if l != "" {
			s.shown = append(s.shown, l)
		}
	}
	return found
}

// token is a cluster's, as it is typed and answered.
var token = regexp.MustCompile(`sp1-[A-Za-z0-9_-]+`)

// rewrite is the page with other outputs, one for each of its steps, and with the
// token that is in them. Blocks without a step stay as they are.
func rewrite(page []byte, outputs [][]string) []byte {
	var b bytes.Buffer
	fenced, within, n, made := false, false, 0, ""
	for _, l := range strings.SplitAfter(string(page), "\n") {
		bare := strings.TrimSuffix(l, "\n")
		switch {
		case strings.HasPrefix(bare, "```"):
			fenced, within = !fenced, false
		case fenced && prompt.MatchString(bare):
			if made != "" {
				l = token.ReplaceAllLiteralString(l, made)
			}
			b.WriteString(l)
			within = true
			for _, o := range outputs[n] {
				b.WriteString(o + "\n")
				if t := token.FindString(o); t != "" {
					made = t
				}
			}
			n++
			continue
		case within && bare != interrupted && bare != "":
			continue
		}
		b.WriteString(l)
	}
	return b.Bytes()
}

// varies is what is another in each run, and what stands for it in a comparison.
var varies = []struct {
	pattern *regexp.Regexp
	as      string
}{
	{token, "TOKEN"},
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "UUID"},
	{regexp.MustCompile(`\b[0-9a-f]{12,64}\b`), "ID"},
	{regexp.MustCompile(`\bdownloading socketplane \S+`), "downloading socketplane VERSION"},
	{regexp.MustCompile(`\bpid([ =])[0-9]+`), "pid${1}N"},
	{regexp.MustCompile(`[0-9.]+(/[0-9.]+)* ms\b`), "TIME"},
	{regexp.MustCompile(`^[A-Z][a-z]{2} [0-9 ]{2} [0-9:]{8} (\S+) (\w+)\[[0-9]+\]:`), "DATE $1 $2[N]:"}, // the journal's
	{regexp.MustCompile(`\btime=[0-9]{4}-[0-9]{2}\S+`), "time=TIME"},
	{regexp.MustCompile(`consul: (.*) \(v[0-9][^)]*\)`), "consul: $1 (VERSION)"},
	{regexp.MustCompile(`\bv[0-9]+\.[0-9]+\.[0-9]+[-.0-9a-z]*(-ID-[0-9a-f]+)?(-dirty)?$`), "VERSION"}, // a date in it is an ID by now
	{regexp.MustCompile(`\balive +(server|client) +[0-9][0-9.a-z]* `), "alive $1 VERSION "},           // Consul's members
	{regexp.MustCompile(`\b(socketplane-[0-9]+)-[0-9a-f]{8}\b`), "$1-ID"},                             // as Consul knows it
	{regexp.MustCompile(`\bspv[0-9a-f]+\b`), "PORT"},
	{regexp.MustCompile(`@if[0-9]+\b`), "@ifN"},
	{regexp.MustCompile(`[ \t]+`), " "}, // a column is as wide as its widest
}

// plain is a line without what varies.
func plain(line string) string {
	for _, v := range varies {
		line = v.pattern.ReplaceAllString(line, v.as)
	}
	return strings.TrimRight(line, " ")
}
