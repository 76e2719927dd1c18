package cli

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/api"
)

// An unattended host waits for a cluster that is not there yet, and for nothing else.
func TestAwaitCluster(t *testing.T) {
	var out bytes.Buffer
	a := &app{stdout: &out}
	tries := 0
	err := a.awaitCluster(t.Context(), func() error {
		if tries++; tries < 2 {
			return api.Errorf(api.CodeUnavailable, "10.0.0.11: no cluster answers there")
		}
		return nil
	})
	if err != nil || tries != 2 || strings.Count(out.String(), "waiting: 10.0.0.11") != 1 {
		t.Errorf("%v after %d tries, saying %q", err, tries, out.String())
	}
	for _, final := range []error{api.Errorf(api.CodeConflict, "the token is another"), errors.New("disk full")} {
		tries = 0
		if err := a.awaitCluster(t.Context(), func() error { tries++; return final }); !errors.Is(err, final) || tries != 1 {
			t.Errorf("%v after %d tries", err, tries)
		}
	}
}
