package agent

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Subjects of notes. Each prefix is followed by the name that the comment shows. A note
// describes a problem that Status reports and the agent cannot repair: the agent leaves
// the object alone and continues with the others.
const (
	noteAddress  = "address/" // endpoint id: the store assigns its address to another
	noteUplink   = "uplink"   // no interface is known to lead out of the host
	noteAllowed  = "allowed/" // network, endpoint's address, prefix: the endpoint cannot use the allowed prefix
	noteFull     = "full/"    // network, slash: this host's list of endpoints is nearly full
	noteFirewall = "firewall" // the kernel cannot close the cluster's ports
	noteBlocks   = "blocks/"  // network: some addresses are unreadable
	noteMAC      = "mac/"     // endpoint id: its interface has an unexpected MAC
	noteMTU      = "mtu/"     // endpoint id: it has an outdated MTU
	noteNetwork  = "network/" // network: the store has no record of it
	notePorts    = "ports/"   // endpoint id: a port that it publishes is taken
	notePort     = "port/"    // port: its external_ids name no endpoint

	noteRoute  = "route/"    // network, prefix, endpoint's address: this host does not use the route
	noteRecord = "record/"   // network: its record is refused, or only partly used
	notePeer   = "peer/"     // host id: its record is not accepted
	noteSmall  = "small/"    // host id: its MTU is ignored
	noteMeta   = "metadata/" // network: it requests what this host's settings do not allow
)

// versions matches the version of a store key. note ignores it, because another write of
// the same value is no news.
var versions = regexp.MustCompile(`\bversion [0-9]+`)

// note stores a sentence for Status, and logs it if it is new.
func (a *Agent) note(about, sentence string) {
	sentence = oneLine(sentence)
	a.mu.Lock()
	news := versions.ReplaceAllString(a.notes[about], "") != versions.ReplaceAllString(sentence, "")
	a.notes[about] = sentence
	a.mu.Unlock()
	if news {
		a.Logger.Warn("left alone: " + sentence)
	}
}

// clearNotes deletes the notes whose subject begins with prefix, except those in keep.
func (a *Agent) clearNotes(prefix string, keep ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.notes, func(about, _ string) bool {
		return strings.HasPrefix(about, prefix) && !slices.Contains(keep, about)
	})
}

// noteOn returns the note on a subject, or "" if there is none.
func (a *Agent) noteOn(about string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.notes[about]
}
