package cluster

import (
	"errors"
	"slices"
	"strings"
)

// Capabilities: what all living hosts must know before one of them uses it. A name is
// never given to something else later.
const (
	// UnknownFields: the host reads stored values that have members which it does not
	// know, and keeps those when it writes them again. A new member of a value that has
	// many readers depends on it.
	UnknownFields = "unknown-fields"
	// AllowedAddresses: the host lets other hosts' endpoints have addresses beside their
	// own, and knows the routes that lead to them. Its containers do not find such an
	// address otherwise.
	AllowedAddresses = "allowed-addresses"
	// DynamicRange: the host gives endpoints that ask for no address one from the range
	// that their network's record names, and from nowhere else.
	DynamicRange = "dynamic-range"
)

const (
	maxAgent        = 1024 // bytes of version and capabilities in a record
	maxCapabilities = 64
)

// Capabilities lists what this release is capable of.
func Capabilities() []string { return []string{UnknownFields, AllowedAddresses, DynamicRange} }

// Knows says whether the host has said that it is capable of something.
func (h Host) Knows(capability string) bool { return slices.Contains(h.Capabilities, capability) }

// Lacking lists the living hosts that are not capable of something. A suspect host
// counts: only its agent may be silent, and the next agent there is likely the same.
// A host that is gone does not.
func Lacking(hosts []Host, gone map[string]bool, capability string) (lacking []Host) {
	for _, h := range hosts {
		if !gone[h.ID] && !h.Knows(capability) {
			lacking = append(lacking, h)
		}
	}
	return lacking
}

// encodeAgent writes a version with capabilities: a word each. They are no member of
// their own in the record, since releases without UnknownFields refuse a record with
// one more; those take this for a version. They also write their own version over it,
// so a host never names what its agent of before was capable of.
func encodeAgent(version string, capabilities []string) string {
	return strings.Join(append([]string{version}, capabilities...), " ")
}

// errNoAgent says that a record does not name its agent's version.
var errNoAgent = errors.New("its agent is no version")

func decodeAgent(agent string) (version string, capabilities []string, err error) {
	if len(agent) > maxAgent || !printable(agent) {
		return "", nil, errNoAgent
	}
	version, words, _ := strings.Cut(agent, " ")
	capabilities = strings.Fields(words)
	if len(capabilities) > maxCapabilities {
		return "", nil, errNoAgent
	}
	return version, capabilities, nil
}
