package cli

import (
	"log/slog"
	"testing"
)

// A token's file that the settings name must be there, also where it is the one
// that is looked for anyway.
func TestNamedTokenFileMustBeThere(t *testing.T) {
	const env = "SOCKETPLANE_CLUSTER_TOKEN_FILE"
	for name, c := range map[string]struct {
		file string
		env  map[string]string
		path string
		must bool
	}{
		"nothing is said":             {"", nil, DefaultTokenFile, false},
		"others are said":             {"[cluster]\niface = \"eth1\"\n", nil, DefaultTokenFile, false},
		"the default, in the file":    {"[cluster]\ntoken_file = \"" + DefaultTokenFile + "\"\n", nil, DefaultTokenFile, true},
		"the default, by a variable":  {"", map[string]string{env: DefaultTokenFile}, DefaultTokenFile, true},
		"another":                     {"[cluster]\ntoken_file = \"/t\"\n", nil, "/t", true},
		"none":                        {"[cluster]\ntoken_file = \"\"\n", nil, "", false},
		"none, by a variable":         {"[cluster]\ntoken_file = \"/t\"\n", map[string]string{env: ""}, "", false},
		"Consul's token is not meant": {"[consul]\ntoken_file = \"/t\"\n", nil, DefaultTokenFile, false},
	} {
		s, _, err := loadSettings(testSources(t, c.file, c.env, nil))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		s.Host.StateDir = t.TempDir()
		k, err := newKeeper(s, "7001c2b0-c66d-4a66-b5c3-d21c359c1807", nil, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if k.TokenFile != c.path || k.TokenFileMust != c.must {
			t.Errorf("%s: file %q, must be there: %t; want %q, %t", name, k.TokenFile, k.TokenFileMust, c.path, c.must)
		}
	}
}
