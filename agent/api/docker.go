package api

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"
)

// DockerSpec is what a Docker user specified for a network beside its subnet (docker
// network create -o, --label). The agents create the matching Docker network on other
// hosts with the same values, because Compose would not accept it as its own otherwise.
type DockerSpec struct {
	Options map[string]string
	Labels  map[string]string
	// Aux are addresses that no endpoint gets, by their names in Docker (--aux-address).
	Aux map[string]netip.Addr
}

// Keeps reports whether Aux reserves addr.
func (s DockerSpec) Keeps(addr netip.Addr) bool {
	return slices.Contains(slices.Collect(maps.Values(s.Aux)), addr)
}

// Limits of a DockerSpec.
const (
	maxSpecEntries = 64       // options and labels together
	maxSpecKey     = 256      // bytes
	maxSpecValue   = 4 << 10  // bytes
	maxSpecSize    = 32 << 10 // bytes, all together
	maxAux         = 32       // addresses
	maxAuxName     = 128      // bytes
)

// Check returns an error if s exceeds the limits or is not valid text, so that other hosts
// could not apply it.
func (s DockerSpec) Check() error {
	if n := len(s.Options) + len(s.Labels); n > maxSpecEntries {
		return Errorf(CodeInvalid, "a network has at most %d options and labels, not %d", maxSpecEntries, n)
	}
	if n := len(s.Aux); n > maxAux {
		return Errorf(CodeInvalid, "a network has at most %d addresses of --aux-address, not %d", maxAux, n)
	}
	for name, addr := range s.Aux {
		if name == "" || len(name) > maxAuxName || !clean(name) {
			return Errorf(CodeInvalid, "the name %s of an --aux-address must be 1 to %d bytes of UTF-8 without NUL", shown(name), maxAuxName)
		}
		if !addr.Is4() {
			return Errorf(CodeInvalid, "the --aux-address %s is not an IPv4 address", shown(name))
		}
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
