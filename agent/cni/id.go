package cni

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/socketplane/socketplane/agent/api"
)

// endpointID returns the endpoint id of an attachment, which the specification identifies
// by network configuration, container and interface. The id starts with idPrefix, which
// identifies the configuration, so that GC of one configuration leaves the endpoints of
// others on the same network alone. The rest is a hash, because ids of runtimes may be
// longer than ours.
func endpointID(configName, containerID, ifName string) string {
	return idPrefix(configName) + digest(32, containerID, ifName)
}

// idPrefix returns the prefix of the ids of all endpoints that a network configuration
// created.
func idPrefix(configName string) string { return "cni-" + digest(16, configName) + "-" }

// digest returns n hex digits of a hash of words. It separates the words with a NUL, which
// no word can contain.
func digest(n int, words ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(words, "\x00")))
	return hex.EncodeToString(sum[:])[:n]
}

// madeBy reports whether a network configuration created an endpoint.
func madeBy(configName string, e api.Endpoint) bool {
	return e.Source == api.SourceCNI && strings.HasPrefix(e.ID, idPrefix(configName))
}
