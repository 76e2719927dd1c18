package lab

import (
	"strings"
	"testing"
)

// A Docker that is not to be had is told before anything of a lab is made, in the
// words of the script that looked for it.
func TestDockerRootRefuses(t *testing.T) {
	root, err := moduleRoot("")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := dockerRoot(t.Context(), Options{Root: root, Docker: "1.0"}); err == nil || !strings.Contains(err.Error(), `there is no Docker "1.0"; it is 26.1 or 28.5`) {
		t.Errorf("%q, %v", got, err)
	}
	for _, opts := range []Options{{Root: root}, {Root: root, Docker: "1.0", NoDocker: true}} {
		if got, err := dockerRoot(t.Context(), opts); got != "" || err != nil {
			t.Errorf("%+v: %q, %v", opts, got, err)
		}
	}
}
