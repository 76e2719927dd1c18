package cluster

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/socketplane/socketplane/agent/state"
)

// errDoubt means that what holds the record may be another machine.
var errDoubt = errors.New("it is not known yet whether another machine has this host's identity")

// compare says whether the living session that holds our record can be one of
// ours. An agent before this one on the same boot of the machine: yes. One
// before a reboot: yes, if the tunnel address is the same, for which a machine
// has no rival on its network. Else only time tells: a session whose machine is
// gone ends, a twin's is renewed. Nothing is written meanwhile, so that a copy
// of a disk takes nothing from the machine that it was copied from.
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
