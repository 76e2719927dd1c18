package cluster

import (
	"errors"
	"slices"
	"strings"
)

// Capabilities that every live host must have before one of them uses the feature. A name
// is never reused for something else.
const (
	// UnknownFields: the host reads stored values with members that it does not know,
	// and preserves those members when it writes the value. A new member of a value with
	// many readers depends on it.
	UnknownFields = "unknown-fields"
	// AllowedAddresses: the host accepts that endpoints of other hosts have addresses
	// besides their own, and installs the routes to them. Without it, the host's
	// containers cannot reach such an address.
	AllowedAddresses = "allowed-addresses"
	// DynamicRange: for an endpoint without a requested address, the host allocates one
	// only from the range in the network's record.
	DynamicRange = "dynamic-range"
)

const (
	maxAgent        = 1024 // bytes of version and capabilities in a record
	maxCapabilities = 64
)

// Capabilities returns the capabilities of this release.
func Capabilities() []string { return []string{UnknownFields, AllowedAddresses, DynamicRange} }

// Knows reports whether the host has announced the capability.
func (h Host) Knows(capability string) bool { return slices.Contains(h.Capabilities, capability) }

// Lacking returns the live hosts that lack the capability. A suspect host counts: perhaps
// only its agent is unreachable, and the next agent there is likely of the same version. A
// host that is gone does not count.
func Lacking(hosts []Host, gone map[string]bool, capability string) (lacking []Host) {
	for _, h := range hosts {
		if !gone[h.ID] && !h.Knows(capability) {
			lacking = append(lacking, h)
		}
	}
	return lacking
}

// encodeAgent encodes a version and capabilities as words separated by spaces. The
// capabilities have no record member of their own, because releases without UnknownFields
// reject a record with an extra member. Those releases read the whole text as a version.
// They also overwrite it with their own version, so a record never keeps the capabilities
// of an earlier agent.
func encodeAgent(version string, capabilities []string) string {
	return strings.Join(append([]string{version}, capabilities...), " ")
}

// errNoAgent reports a record without a valid agent version.
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
