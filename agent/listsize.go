package agent

import (
	"fmt"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/stored"
)

const (
	// maxListUnknown bounds the members of a whole list that this release does not know,
	// in bytes. Without it, whoever writes the list once fills it for good.
	maxListUnknown = 32 << 10
	// nearlyFull is the size of a list, in bytes, from which Status names it.
	nearlyFull = state.MaxValue / 4 * 3
)

// readOwn decodes a list of this host and keeps unknown members for the next write, up to
// maxListUnknown. It logs how many it drops.
func (a *Agent) readOwn(e state.Entry) (endpointList, error) {
	l, err := decodeOwn(e)
	if err != nil {
		return l, err
	}
	if dropped := l.trim(); dropped > 0 {
		a.Logger.Warn("members of this host's list of endpoints that this release does not know are dropped: they are too large together",
			"key", e.Key, "bytes", dropped, "limit", maxListUnknown)
	}
	return l, nil
}

// trim drops the unknown members beyond maxListUnknown and returns their size. The list's
// own come first, then those of the endpoints in order.
func (l *endpointList) trim() (dropped int) {
	left := maxListUnknown
	keep := func(u *stored.Unknown) {
		if len(*u) > left {
			dropped += len(*u)
			*u = ""
			return
		}
		left -= len(*u)
	}
	keep(&l.Unknown)
	for i := range l.Endpoints {
		keep(&l.Endpoints[i].Unknown)
	}
	return dropped
}

// checkSize returns an error if a list of this host does not fit in the store. It adds a
// note for Status if the list is nearly full.
func (a *Agent) checkSize(networkID string, list []endpoint, size int) error {
	if size <= nearlyFull {
		a.clearNotes(noteFull + networkID + "/")
		return nil
	}
	idle := 0
	for _, ep := range list {
		if !ep.Attached {
			idle++
		}
	}
	say := func(how string) string {
		return fmt.Sprintf("network %q: this host's list of endpoints is %s: its %d endpoints have %d bytes of the %d that fit in the store. "+
			"%d endpoints only hold an address: remove those that are not needed with socketplane disconnect or rm; socketplane info --stopped lists them", networkID, how, len(list), size, state.MaxValue, idle)
	}
	if size > state.MaxValue {
		a.note(noteFull+networkID+"/", say("full"))
		return &api.Error{Code: api.CodeExhausted, Message: say("full")}
	}
	a.note(noteFull+networkID+"/", say("nearly full"))
	return nil
}
