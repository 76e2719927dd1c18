package cni

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/socketplane/socketplane/agent/api"
)

// endpointID names the endpoint of an attachment, which the specification
// identifies by network configuration, container and interface. It begins with
// idPrefix: an endpoint tells which configuration made it, so that GC of one
// leaves those of another alone that puts containers on the same network.
// Runtimes' ids are longer than ours may be, hence the hash.
func endpointID(configName, containerID, ifName string) string {
	return idPrefix(configName) + digest(32, containerID, ifName)
}

// idPrefix begins the ids of all endpoints that a network configuration made.
func idPrefix(configName string) string { return "cni-" + digest(16, configName) + "-" }

// digest is n hex digits of a hash of words; a NUL, which none can hold,
// stands between them.
func digest(n int, words ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(words, "\x00")))
	return hex.EncodeToString(sum[:])[:n]
}

// madeBy says whether a network configuration made an endpoint.
func madeBy(configName string, e api.Endpoint) bool {
	return e.Source == api.SourceCNI && strings.HasPrefix(e.ID, idPrefix(configName))
}
