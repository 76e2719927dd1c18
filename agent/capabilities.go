package agent

import (
	"strings"

	"github.com/socketplane/socketplane/agent/api"
)

// allKnow returns an error if a live host lacks a capability: that host would
// misinterpret what it reads. what names the feature, in the plural.
func (a *Agent) allKnow(capability, what string) error {
	names, known := a.view.behind(capability)
	switch {
	case len(names) > 0:
		return api.Errorf(api.CodeConflict, "%s need this release, or a newer one, on every host; upgrade it on: %s", what, strings.Join(names, ", "))
	case !known:
		return api.Errorf(api.CodeUnavailable, "%s need this release, or a newer one, on every host, and not all hosts' records can be read; see: socketplane agent status", what)
	}
	return nil
}
