package upgrade

import (
	"os"
	"slices"
	"strings"
	"testing"
)

func readPage(t *testing.T) map[string][]step {
	t.Helper()
	text, err := os.ReadFile("../../../docs/upgrade.md")
	if err != nil {
		t.Fatal(err)
	}
	found, typed := steps(string(text)), 0
	for _, list := range found {
		typed += len(list)
	}
	if want := strings.Count(string(text), "\nh1# ") + strings.Count(string(text), "\nh2# "); typed != want || typed == 0 {
		t.Fatalf("%d steps were read, and %d lines look typed", typed, want)
	}
	return found
}

func TestSteps(t *testing.T) {
	got := steps("# T\nh1# no\n## A\n```\nh1# one two\nout\n\nh2# three\n```\n## B\n```\n## c\nh1# four\n```\n")
	a, b := got["A"], got["B"]
	if len(a) != 2 || a[0].host != "h1" || a[0].command != "one two" || a[0].line != 5 || !slices.Equal(a[0].shown, []string{"out"}) || a[1].host != "h2" || len(b) != 1 {
		t.Errorf("%+v", got)
	}
}

func TestPlain(t *testing.T) {
	for line, want := range map[string]string{
		"h1 *   198.18.0.1   alive   server   v1.1.0":                            "h1 * 198.18.0.1 alive server VERSION",
		"h2  198.18.0.2  alive  client  e58e9f7 (behind)":                        "h2 198.18.0.2 alive client VERSION (behind)",
		"h2  198.18.0.2  alive  -  v0.0.0-20261201101338-abc1234-dirty (behind)": "h2 198.18.0.2 alive - VERSION (behind)",
		"HOST  ADDRESS": "HOST ADDRESS",
	} {
		if got := plain(line); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}
