package walk

import (
	"os"
	"slices"
	"strings"
	"testing"
)

const page = "../../../docs/walk-2015.md"

// The page is read as it is meant: every line that looks typed is a step, and
// writing the outputs that it has changes nothing.
func TestPageIsRead(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	found := steps(text)
	typed := strings.Count(string(text), "\nsocketplane-1$") + strings.Count(string(text), "\nsocketplane-2$")
	if len(found) != typed || typed == 0 {
		t.Errorf("%d steps, and %d lines that look typed", len(found), typed)
	}
	var outputs [][]string
	for _, s := range found {
		outputs = append(outputs, s.shown)
		if s.follow && len(s.shown) == 0 {
			t.Errorf("line %d: nothing is awaited before %s", s.line, interrupted)
		}
	}
	if again := rewrite(text, outputs); string(again) != string(text) {
		t.Errorf("rewritten with its own outputs the page is another:\n%s", again)
	}
}

func TestSteps(t *testing.T) {
	const text = "a\nh-1$ no\n```\nh-1$ one\nout\n\nh-2$ two\nline\n^C\n```\nb\n```sh\nother\n```\n"
	got := steps([]byte(text))
	if len(got) != 2 || got[0].host != "h-1" || got[0].command != "one" || got[0].line != 4 ||
		!slices.Equal(got[0].shown, []string{"out"}) || got[1].command != "two" || !got[1].follow ||
		!slices.Equal(got[1].shown[:1], []string{"line"}) {
		t.Errorf("%+v", got)
	}
	want := "a\nh-1$ no\n```\nh-1$ one\nx\ny\n\nh-2$ two\nz\n^C\n```\nb\n```sh\nother\n```\n"
	if got := string(rewrite([]byte(text), [][]string{{"x", "y"}, {"z"}})); got != want {
		t.Errorf("%q", got)
	}
}

func TestPlain(t *testing.T) {
	for line, want := range map[string]string{
		`Nov 24 09:39:38 h-1 socketplane[562]: time=2026-11-24T09:39:38.335Z level=INFO msg="Consul runs" pid=599`: `DATE h-1 socketplane[N]: time=TIME level=INFO msg="Consul runs" pid=N`,
		"round-trip min/avg/max = 1.205/1.3/2.1 ms":                                                                "round-trip min/avg/max = TIME",
		"h-1  10.0.0.1:8301  alive   server  1.22.5  2      dc":                                                    "h-1 10.0.0.1:8301 alive server VERSION 2 dc",
		"the agent runs (pid 569)":                                                                                 "the agent runs (pid N)",
		"64 bytes from 10.6.0.2: seq=0 ttl=64 time=3.427 ms":                                                       "64 bytes from 10.6.0.2: seq=0 ttl=64 time=TIME",
		"foo4      10.6.0.0/16   10.6.0.1   2":                                                                     "foo4 10.6.0.0/16 10.6.0.1 2",
		"8ebf8efcefd8e34dff2251f8695a984734e89031e76629c9cc7a8ce8ecbd8e3d":                                         "ID",
	} {
		if got := plain(line); got != want {
			t.Errorf("%q: %q; want %q", line, got, want)
		}
	}
}
