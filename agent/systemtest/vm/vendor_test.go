//go:build long

package vm

import (
	"encoding/json"

	"github.com/socketplane/socketplane/agent/systemtest/release"
)

// vendorData is a cloud-config (JSON is YAML) beside the user's own, of which no key
// may be in that.
func (s *site) vendorData() string {
	s.t.Helper()
	b, err := json.Marshal(map[string]any{
		"ca_certs": map[string]any{"remove_defaults": true, "trusted": []string{string(s.ca)}},
		"bootcmd":  [][]string{{"cloud-init-per", "once", "release", "sh", "-c", "echo " + gateway + " " + release.Host + " >>/etc/hosts"}},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return "#cloud-config\n" + string(b)
}
