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

// restoreWithin limits how long deleteOnce tries to remove its mark after the caller has
// given up.
const restoreWithin = 5 * time.Second

// Delete deletes a network with its VLAN and its remaining addresses. It also completes
// an unfinished deletion by any host. It returns ErrInUse (an InUseError) while any host
// has endpoints on the network, and ErrNotFound if the network does not exist.
func (m *Manager) Delete(ctx context.Context, name string) error {
	return m.delete(ctx, name, anyRecord)
}

func anyRecord(Record) error { return nil }

// DeleteDockers is Delete for a network that a user of Docker created with this subnet.
// It fails with ErrInUse if the network was not created through Docker or has another
// subnet.
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

// delete deletes a network if may accepts its record.
func (m *Manager) delete(ctx context.Context, name string, may func(Record) error) error {
	for lost := 0; ; lost++ {
		err := m.deleteOnce(ctx, name, may)
		switch {
		case err == nil:
			m.log.Info("network deleted", "network", name)
			return nil
		case lost > 0 && errors.Is(err, ErrNotFound):
			return nil // the network existed, and another host deleted it meanwhile
		case !errors.Is(err, state.ErrConflict):
			return err
		}
		if err := pause(ctx, lost); err != nil {
			return fmt.Errorf("delete network %q: %w", name, err)
		}
	}
}

// deleteOnce makes one attempt. ErrConflict means that the store changed meanwhile.
//
// A deletion first marks the record and then reads the endpoints. A host publishes an
// endpoint in a transaction that checks the version of an unmarked record. That
// transaction either precedes the mark, so that the endpoint is visible here, or it
// fails. The final transaction in turn checks the version of the marked record, so it
// fails if a host removed the mark in between.
func (m *Manager) deleteOnce(ctx context.Context, name string, may func(Record) error) error {
	bump, err := m.bump(ctx)
	if err != nil {
		return err
	}
	rec, err := m.read(ctx, name)
	if errors.Is(err, ErrNotFound) { // the error of read advises to create the network
		return refuse(ErrNotFound, "network %q does not exist; see: socketplane network list", name)
	}
	if err != nil {
		return err
	}
	if err := may(rec); err != nil {
		return err
	}
	if !rec.Deleting {
		// Most refusals end here. They set no mark, which would make concurrent
		// attaches fail.
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
	// The network is in use after all, the store is unreachable, or ctx has ended:
	// remove the mark, even after the end of ctx. If remove was applied and only its
	// response was lost, the version has changed and this has no effect.
	restore, cancel := context.WithTimeout(context.WithoutCancel(ctx), restoreWithin)
	defer cancel()
	if _, undo := m.mark(restore, rec, false); undo != nil {
		if errors.Is(undo, state.ErrConflict) && errors.Is(err, ErrInUse) {
			return undo // another host changed the record first: read it again
		}
		m.log.Warn("network stays marked as being deleted; delete or create it again", "network", name, "err", undo)
	}
	return err
}

// mark sets or clears the deletion mark of a record and returns the record with its new
// version.
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

// UsedElsewhere returns an InUseError if another host has endpoints on the network.
func (m *Manager) UsedElsewhere(ctx context.Context, name string) error {
	return m.inUseBut(ctx, name, m.host)
}

// inUse returns an InUseError if any host has endpoints on the network. A key counts
// whatever its value is.
func (m *Manager) inUse(ctx context.Context, name string) error {
	return m.inUseBut(ctx, name, "")
}

// inUseBut is inUse without the endpoints of one host.
func (m *Manager) inUseBut(ctx context.Context, name, host string) error {
	prefix := EndpointsKey(name, "")
	entries, err := m.store.List(ctx, prefix)
	if err != nil {
		return fmt.Errorf("delete network %q: %w", name, err)
	}
	if host != "" {
		entries = slices.DeleteFunc(entries, func(e state.Entry) bool { return e.Key == prefix+host })
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

// remove deletes the record, its VLAN and its addresses in one transaction.
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
