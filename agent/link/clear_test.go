package link

import (
	"slices"
	"strings"
	"testing"
)

func TestClear(t *testing.T) {
	l := newLinks(t)
	addDummy(t, here(t), "stays0")
	for _, id := range []string{"a", "b"} {
		if err := l.EnsureVeth(t.Context(), veth(t, l, id)); err != nil {
			t.Fatal(err)
		}
	}
	l.deafen(HostName("a"))
	for _, want := range []int{2, 0} {
		if n, err := l.Clear(t.Context()); err != nil || n != want {
			t.Errorf("got %d, %v; want %d", n, err, want)
		}
	}
	left := names(t, here(t))
	if !slices.Contains(left, "stays0") || slices.ContainsFunc(left, func(n string) bool { return strings.HasPrefix(n, HostPrefix) }) {
		t.Errorf("left: %q", left)
	}
	if strings.Contains(chains(t), "netdev "+ingressTable) {
		t.Errorf("the table is left:\n%s", chains(t))
	}
}
