package cluster

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/socketplane/socketplane/agent/state"
)

// errDoubt reports that the holder of the record may be another machine.
var errDoubt = errors.New("it is not known yet whether another machine has this host's identity")

// compare reports whether the live session that holds this host's record can be this
// host's own. It can if the record has the same boot ID: an earlier agent on this boot.
// It can if the record has the same tunnel address: an agent before a reboot, because no
// other machine on the network has that address. In all other cases time decides: the
// session of a machine that is gone ends, while a twin renews its session. Meanwhile
// nothing is written, so that a copy of a disk takes nothing from the original machine.
func (m *Member) compare(self Host, old state.Entry) error {
	theirs, err := Decode(old)
	if err != nil || theirs.Boot == self.Boot || theirs.VTEP == self.VTEP {
		m.rival = ""
		return nil //nolint:nilerr // what cannot be read proves nothing
	}
	if m.rival != old.Session {
		m.rival, m.since = old.Session, m.now()
		m.logger.Warn("the record of this host is held for a machine with another address; waiting whether it lives",
			"host", theirs.Name, "address", theirs.VTEP)
	}
	if m.now().Sub(m.since) < rivalTTLs*m.ttl {
		return fmt.Errorf("%w: %q at %s holds its record; it is known within %v",
			errDoubt, theirs.Name, theirs.VTEP, rivalTTLs*m.ttl)
	}
	return errTwin(self.ID, theirs.Name, theirs.VTEP)
}

func errTwin(id, name string, at netip.Addr) error {
	return fmt.Errorf("%w, %s: host %q at %s lives under it, and this disk seems to be a copy of that one's; "+
		"remove the file host-id from this machine's state directory (/var/lib/socketplane unless set), and start the agent again",
		ErrTwin, id, name, at)
}
