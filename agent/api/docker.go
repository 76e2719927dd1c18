package api

import (
	"strings"
	"unicode/utf8"
)

// DockerSpec is what a user of Docker gave a network beside its subnet (docker network
// create -o, --label). The Docker network that stands for it on other hosts has the
// same, or Compose would not take it for its own.
type DockerSpec struct {
	Options map[string]string
	Labels  map[string]string
}

// Bounds of a DockerSpec.
const (
	maxSpecEntries = 64       // options and labels together
	maxSpecKey     = 256      // bytes
	maxSpecValue   = 4 << 10  // bytes
	maxSpecSize    = 32 << 10 // bytes, all together
)

// Check says whether every host can be asked to take the options and labels over.
func (s DockerSpec) Check() error {
	if n := len(s.Options) + len(s.Labels); n > maxSpecEntries {
		return Errorf(CodeInvalid, "a network has at most %d options and labels, not %d", maxSpecEntries, n)
	}
	size := 0
	for _, entries := range []map[string]string{s.Options, s.Labels} {
		for k, v := range entries {
			size += len(k) + len(v)
			switch {
			case k == "" || len(k) > maxSpecKey || !clean(k):
				return Errorf(CodeInvalid, "the name %s of an option or label must be 1 to %d bytes of UTF-8 without NUL", shown(k), maxSpecKey)
			case len(v) > maxSpecValue || !clean(v):
				return Errorf(CodeInvalid, "the value of option or label %s must be at most %d bytes of UTF-8 without NUL", shown(k), maxSpecValue)
			}
		}
	}
	if size > maxSpecSize {
		return Errorf(CodeInvalid, "the options and labels of a network are %d bytes long; %d is the most", size, maxSpecSize)
	}
	return nil
}

func clean(s string) bool { return utf8.ValidString(s) && !strings.Contains(s, "\x00") }
