package lab

import (
	"strings"
	"testing"
)

// A version that is not to be had is told before anything of a lab is made, in the words
// of the script that looked for it.
func TestRootsAreRefused(t *testing.T) {
	root, err := moduleRoot("")
	if err != nil {
		t.Fatal(err)
	}
	for said, opts := range map[string]Options{
		`there is no Docker "1.0"; it is 26.1 or 28.5`: {Root: root, Docker: "1.0"},
		`there is no Podman "4.3"; it is 5.4 or 5.8`:   {Root: root, Podman: "4.3"},
	} {
		if got, err := findRoots(t.Context(), opts); err == nil || !strings.Contains(err.Error(), said) {
			t.Errorf("%q, %v", got, err)
		}
	}
	for _, opts := range []Options{{Root: root}, {Root: root, Docker: "1.0", NoDocker: true}} {
		if got, err := findRoots(t.Context(), opts); got != (roots{}) || err != nil {
			t.Errorf("%+v: %q, %v", opts, got, err)
		}
	}
}
