package ovs

import (
	"fmt"
	"strings"

	"github.com/ovn-org/libovsdb/model"
)

// This file distinguishes changes that others made to our rows from our own. libovsdb may
// drop events, so they are hints. A superfluous notification only costs the agent a
// check.

// portPrint and interfacePrint return a fingerprint of the columns that we write.
func portPrint(r *portRow) string {
	ids := map[string]string{}
	for k, v := range r.ExternalIDs {
		if strings.HasPrefix(k, idPrefix) {
			ids[k] = v
		}
	}
	return fmt.Sprint(deref(r.Tag), ids)
}

func interfacePrint(r *interfaceRow) string {
	return fmt.Sprint(r.Type, deref(r.MAC), deref(r.MTURequest), r.Options)
}

// These methods return the fingerprints of the wanted columns.
func (p portSpec) portPrint() string { return fmt.Sprint(p.tag, p.externalIDs) }

func (p portSpec) interfacePrint() string { return fmt.Sprint(p.typ, p.mac, p.mtu, p.options) }

// remember records what we are about to write to a port, and whether a new row replaces
// one of that name.
func (s *Switch) remember(spec portSpec, replaces bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrote[tablePort+spec.name] = spec.portPrint()
	s.wrote[tableInterface+spec.name] = spec.interfacePrint()
	if replaces {
		s.removing[spec.name] = true
	}
}

// forget records that we are about to remove a port.
func (s *Switch) forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.wrote, tablePort+name)
	delete(s.wrote, tableInterface+name)
	s.removing[name] = true
}

func (s *Switch) rowUpdated(_ string, before, after model.Model) {
	switch now := after.(type) {
	case *bridgeRow:
		if now.Name == s.cfg.Bridge && len(s.bridgeDiff(now)) > 0 {
			poke(s.remake)
		}
	case *portRow:
		if was, ok := before.(*portRow); ok && was.ExternalIDs[idKind] != "" && portPrint(was) != portPrint(now) {
			s.compareWritten(tablePort+now.Name, portPrint(now))
		}
	case *interfaceRow:
		was, ok := before.(*interfaceRow)
		if !ok {
			break
		}
		if interfacePrint(was) != interfacePrint(now) {
			s.compareWritten(tableInterface+now.Name, interfacePrint(now))
		}
		if deref(was.OFPort) > 0 && deref(was.OFPort) != deref(now.OFPort) { // the port vanished, or its number changed
			s.notifyChanged()
		}
	}
	s.wake.fire()
}

func (s *Switch) compareWritten(key, print string) {
	s.mu.Lock()
	mine := s.wrote[key] == print
	s.mu.Unlock()
	if !mine {
		s.notifyChanged()
	}
}

func (s *Switch) rowDeleted(_ string, row model.Model) {
	switch was := row.(type) {
	case *bridgeRow:
		if was.Name == s.cfg.Bridge {
			poke(s.remake)
		}
	case *portRow:
		if was.ExternalIDs[idKind] == "" {
			break
		}
		s.mu.Lock()
		mine := s.removing[was.Name]
		delete(s.removing, was.Name)
		s.mu.Unlock()
		if !mine {
			s.notifyChanged()
		}
	}
	s.wake.fire()
}
