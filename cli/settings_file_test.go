package cli

import (
	"bytes"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"

	"github.com/socketplane/socketplane/cli/setup"
)

// The file that is installed has every setting, with what is built in, and changes
// nothing.
func TestInstalledSettingsFile(t *testing.T) {
	want := defaultSettings("box")
	s, from, err := loadSettings(testSources(t, setup.ConfigText, nil, nil))
	if err != nil || !reflect.DeepEqual(s, want) {
		t.Errorf("as it is installed it says\n%+v, %v", s, err)
	}
	for key, origin := range from {
		if origin != "built in" {
			t.Errorf("%s is from %s", key, origin)
		}
	}

	text := regexp.MustCompile(`(?m)^# ([a-z_]+ = )`).ReplaceAllString(setup.ConfigText, "$1")
	if err := toml.NewDecoder(bytes.NewBufferString(text)).DisallowUnknownFields().Decode(&s); err != nil {
		t.Fatalf("without the comments: %v\n%s", err, text)
	}
	for _, e := range settingTable() {
		table, key, _ := strings.Cut(e.key, ".")
		_, after, _ := strings.Cut(text, "\n["+table+"]")
		part, _, _ := strings.Cut(after, "\n[")
		line := regexp.MustCompile(`(?m)^` + key + ` = .*$`).FindString(part)
		if line == "" {
			t.Errorf("%s is not in the file", e.key)
			continue
		}
		if e.check != nil {
			if err := e.check(e.text(&s)); err != nil {
				t.Errorf("%s: %v", line, err)
			}
		}
		if unset := strings.Contains(line, "# such as"); !unset && e.text(&s) != e.text(&want) {
			t.Errorf("%s: built in is %s", line, e.text(&want))
		} else if unset && e.key != "host.name" && e.text(&want) != "" {
			t.Errorf("%s: built in is %s", line, e.text(&want))
		}
	}
}
