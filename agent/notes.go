package agent

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

// What a note is about; a name follows. Notes are what Status tells and the
// agent cannot mend: it leaves it alone and goes on with the rest.
const (
	noteAddress  = "address/" // endpoint id: the store gives its address to another
	noteUplink   = "uplink"   // no interface is known to lead out
	noteAllowed  = "allowed/" // network, endpoint's address, prefix: what it is allowed and cannot have
	noteFirewall = "firewall" // the kernel cannot close the cluster's ports
	noteBlocks   = "blocks/"  // network: addresses that cannot be read
	noteMAC      = "mac/"     // endpoint id: its interface has another MAC
	noteMTU      = "mtu/"     // endpoint id: it keeps another MTU
	noteNetwork  = "network/" // network: the store has lost it
	notePorts    = "ports/"   // endpoint id: what it publishes is taken by another
	notePort     = "port/"    // port: its external_ids name no endpoint

	noteRoute  = "route/"    // network, prefix, endpoint's address: a route that is not used here
	noteRecord = "record/"   // network: its record is not believed, or not whole
	notePeer   = "peer/"     // host id: its record is not believed
	noteSmall  = "small/"    // host id: its MTU does not count
	noteMeta   = "metadata/" // network: it asks for what this host's settings do not allow
)

// versions are of keys in the store. Who writes one again and again says nothing new.
var versions = regexp.MustCompile(`\bversion [0-9]+`)

// note keeps a sentence for Status, and logs it when it is news.
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

// clearNotes forgets the notes whose subject begins with prefix, but for those to keep.
func (a *Agent) clearNotes(prefix string, keep ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.notes, func(about, _ string) bool {
		return strings.HasPrefix(about, prefix) && !slices.Contains(keep, about)
	})
}

// noteOn gives the note about something; empty: there is none.
func (a *Agent) noteOn(about string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.notes[about]
}
