package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/stored"
	"github.com/socketplane/socketplane/ipam"
)

// restoreWithin bounds taking back a mark after the caller has given up.
const restoreWithin = 5 * time.Second

// Delete removes a network with its VLAN and what is left of its addresses. It
// is refused with ErrInUse (an InUseError) while any host has endpoints on it;
// ErrNotFound when there is none. A deletion that was begun and not ended, by
// whomever, is continued.
func (m *Manager) Delete(ctx context.Context, name string) error {
	return m.delete(ctx, name, anyRecord)
}

func anyRecord(Record) error { return nil }

// DeleteDockers is Delete for a network that a user of Docker made with this subnet.
// Another of the name, that nobody made through Docker or that has another subnet,
// stays, with ErrInUse.
func (m *Manager) DeleteDockers(ctx context.Context, name string, subnet netip.Prefix) error {
	return m.delete(ctx, name, func(rec Record) error {
		switch {
		case !rec.ByDocker:
			return refuse(ErrInUse, "network %q was not made through Docker and stays; delete it with: socketplane network delete %s", name, name)
		case rec.Subnet != subnet:
			return refuse(ErrInUse, "network %q has subnet %s, not %s; see: socketplane network list", name, rec.Subnet, subnet)
		}
		return nil
	})
}

// delete removes a network whose record may be removed.
func (m *Manager) delete(ctx context.Context, name string, may func(Record) error) error {
	for lost := 0; ; lost++ {
		err := m.deleteOnce(ctx, name, may)
		switch {
		case err == nil:
			m.log.Info("network deleted", "network", name)
			return nil
		case lost > 0 && errors.Is(err, ErrNotFound):
			return nil // it was there; another deleted it meanwhile
		case !errors.Is(err, state.ErrConflict):
			return err
		}
		if err := pause(ctx, lost); err != nil {
			return fmt.Errorf("delete network %q: %w", name, err)
		}
	}
}

// deleteOnce tries once; ErrConflict: something was changed meanwhile.
//
// The fence: the record is marked first, then the endpoints are read. Who
// publishes an endpoint does it in a transaction that checks the version of an
// unmarked record. So it either came before the mark, and is seen here, or it
// fails. The last transaction checks the marked version in turn, so that a mark
// that somebody took back in between stops it.
func (m *Manager) deleteOnce(ctx context.Context, name string, may func(Record) error) error {
	bump, err := m.bump(ctx)
	if err != nil {
		return err
	}
	rec, err := m.read(ctx, name)
	if errors.Is(err, ErrNotFound) { // who deletes does not want to be told to create
		return refuse(ErrNotFound, "network %q does not exist; see: socketplane network list", name)
	}
	if err != nil {
		return err
	}
	if err := may(rec); err != nil {
		return err
	}
	if !rec.Deleting {
		// Most refusals end here, without a mark that attaches could run into.
		if err := m.inUse(ctx, name); err != nil {
			return err
		}
		if rec, err = m.mark(ctx, rec, true); err != nil {
			return err
		}
	}
	err = m.inUse(ctx, name)
	if err == nil {
		err = m.remove(ctx, rec, bump)
	}
	if err == nil || errors.Is(err, state.ErrConflict) {
		return err
	}
	// In use after all, or the store or the caller has left us: put it back as it
	// was, also when ctx has ended. If remove was applied and only its answer was
	// lost, the version is another and this changes nothing.
	restore, cancel := context.WithTimeout(context.WithoutCancel(ctx), restoreWithin)
	defer cancel()
	if _, undo := m.mark(restore, rec, false); undo != nil {
		if errors.Is(undo, state.ErrConflict) && errors.Is(err, ErrInUse) {
			return undo // another was faster: look again
		}
		m.log.Warn("network stays marked as being deleted; delete or create it again", "network", name, "err", undo)
	}
	return err
}

// mark sets or takes back the mark of a record and gives it with its new version.
func (m *Manager) mark(ctx context.Context, rec Record, deleting bool) (Record, error) {
	rec.Deleting = deleting
	value, err := rec.encode()
	if err != nil {
		return rec, err
	}
	rec.Version, err = m.store.CompareAndSet(ctx, Key(rec.ID), value, rec.Version)
	if err != nil {
		return rec, fmt.Errorf("delete network %q: %w", rec.ID, err)
	}
	return rec, nil
}

// inUse gives an InUseError when any host has endpoints on the network. A key
// counts, whatever its value says.
func (m *Manager) inUse(ctx context.Context, name string) error {
	prefix := EndpointsKey(name, "")
	entries, err := m.store.List(ctx, prefix)
	if err != nil {
		return fmt.Errorf("delete network %q: %w", name, err)
	}
	if len(entries) == 0 {
		return nil
	}
	use := &InUseError{Network: name}
	readable := true
	for _, e := range entries {
		use.Hosts = append(use.Hosts, strings.TrimPrefix(e.Key, prefix))
		var v struct {
			Endpoints []json.RawMessage `json:"endpoints"`
		}
		if err := json.Unmarshal(e.Value, &v); err != nil || len(v.Endpoints) == 0 {
			readable = false
		}
		use.Endpoints += len(v.Endpoints)
	}
	if !readable {
		use.Endpoints = 0
	}
	slices.Sort(use.Hosts)
	return use
}

// remove takes the record, its VLAN and its addresses out of the store at once.
func (m *Manager) remove(ctx context.Context, rec Record, bump state.Op) error {
	ops := []state.Op{
		bump,
		{Kind: state.OpDelete, Key: Key(rec.ID), Version: rec.Version},
		{Kind: state.OpDeleteTree, Key: ipam.Prefix(rec.Subnet)},
	}
	e, err := m.store.Get(ctx, VLANKey(rec.VLAN))
	switch {
	case errors.Is(err, state.ErrNotFound):
	case err != nil:
		return fmt.Errorf("delete network %q: %w", rec.ID, err)
	default:
		var v vlanValue
		if err := stored.Read(e.Value, layout, &v); err == nil && v.Network == rec.ID {
			ops = append(ops, state.Op{Kind: state.OpDelete, Key: e.Key, Version: e.Version})
		} else {
			m.log.Warn("VLAN key is not this network's and is left alone", "network", rec.ID, "key", e.Key, "err", err)
		}
	}
	dockers, err := m.dockersOps(ctx, rec, nil)
	if err != nil {
		return err
	}
	if err := m.store.Txn(ctx, append(ops, dockers...)); err != nil {
		return fmt.Errorf("delete network %q: %w", rec.ID, err)
	}
	return nil
}
