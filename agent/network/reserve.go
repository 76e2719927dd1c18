package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/stored"
)

// ReservationsPrefix is the prefix of the subnets reserved for networks that Docker is
// creating. Docker first requests the subnet, and sends the network's name only later.
// Releases that do not know this key ignore it, so they may still take the subnet.
const ReservationsPrefix = state.Prefix + "subnet-reservations/" // + subnet

const (
	// maxReservations limits the reservations of one host.
	maxReservations = 256
	// maxVoid limits how many void reservations one transaction removes, because
	// state.MaxTxnOps limits its operations.
	maxVoid = 32
)

// reservation reserves a subnet. It has no expiry time, because the clocks of hosts
// differ. It ends with the Manager that made it: a later Manager on the same host does
// not know its purpose, and a dead host creates no network.
type reservation struct {
	Version int          `json:"version"`
	Subnet  netip.Prefix `json:"subnet"`
	Host    string       `json:"host"`
	Life    string       `json:"life"`
	// Asked is set if the user named the subnet. Another host may then request the same
	// network at the same time, for example from one Compose file on two hosts.
	Asked bool `json:"asked,omitempty"`

	version uint64 // of the key
	spoilt  bool   // no release can decode the value, so only the key's subnet is known
}

func reservationKey(subnet netip.Prefix) string {
	return ReservationsPrefix + strings.ReplaceAll(subnet.String(), "/", "-")
}

// subnetOfKey is the inverse of reservationKey.
func subnetOfKey(key string) (netip.Prefix, bool) {
	addr, bits, _ := strings.Cut(strings.TrimPrefix(key, ReservationsPrefix), "-")
	subnet, err := netip.ParsePrefix(addr + "/" + bits)
	return subnet, err == nil && reservationKey(subnet) == key
}

func decodeReservation(e state.Entry) (reservation, error) {
	var r reservation
	if err := stored.Read(e.Value, layout, &r); err != nil {
		return r, &BadRecordError{Key: e.Key, Cause: err}
	}
	r.version = e.Version
	_, err := api.ParseSubnet(r.Subnet.String())
	if err == nil && reservationKey(r.Subnet) != e.Key {
		err = fmt.Errorf("it is the reservation of %s", r.Subnet)
	}
	if err != nil {
		return r, &BadRecordError{Key: e.Key, Cause: err}
	}
	return r, nil
}

// ours reports whether this Manager made the reservation.
func (m *Manager) ours(r reservation) bool { return r.Host == m.host && r.Life == m.life }

// reservations returns the valid and the void reservations.
func (m *Manager) reservations(ctx context.Context) (valid, void []reservation, err error) {
	entries, err := m.store.List(ctx, ReservationsPrefix)
	if err != nil || len(entries) == 0 {
		return nil, nil, err
	}
	alive, err := m.alive(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		r, err := decodeReservation(e)
		switch {
		case err != nil:
			if m.left.news(e.Key, e.Version) {
				m.log.Warn("reservation of a subnet is left alone", "err", err)
			}
			if subnet, ok := subnetOfKey(e.Key); ok {
				valid = append(valid, reservation{Subnet: subnet, spoilt: !errors.Is(err, stored.ErrNewer)})
			}
		case m.ours(r), r.Host != m.host && alive[r.Host]:
			valid = append(valid, r)
		default:
			void = append(void, r)
		}
	}
	return valid, void[:min(len(void), maxVoid)], nil
}

func (r reservation) occupied() occupied {
	return occupied{prefix: r.Subnet, reserved: true}
}

func (r reservation) drop() state.Op {
	return state.Op{Kind: state.OpDelete, Key: reservationKey(r.Subnet), Version: r.version}
}

// Reserve reserves subnet, or any free one if it is zero, for a network that this host's
// Docker is creating. The reservation ends when Create has created the network, or with a
// call of Keep that omits the subnet. A subnet that a user requested can be reserved
// again, even by another host. Errors: ErrOverlap, ErrNoSubnet, an *api.Error for an
// invalid subnet, and those of the store.
func (m *Manager) Reserve(ctx context.Context, subnet netip.Prefix) (netip.Prefix, error) {
	if subnet != (netip.Prefix{}) {
		if _, err := api.ParseSubnet(subnet.String()); err != nil {
			return netip.Prefix{}, err
		}
	}
	for lost := 0; ; lost++ {
		got, err := m.reserveOnce(ctx, subnet)
		if said, ok := errors.AsType[*refusal](err); ok { // the network has no name yet
			return netip.Prefix{}, refuse(said.kind, "%s", strings.TrimPrefix(said.text, `network "": `))
		}
		if !errors.Is(err, state.ErrConflict) {
			return got, err
		}
		if err := pause(ctx, lost); err != nil {
			return netip.Prefix{}, fmt.Errorf("reserve a subnet: %w", err)
		}
	}
}

func (m *Manager) reserveOnce(ctx context.Context, subnet netip.Prefix) (netip.Prefix, error) {
	bump, err := m.bump(ctx)
	if err != nil {
		return netip.Prefix{}, err
	}
	taken, err := m.networksSubnets(ctx)
	if err != nil {
		return netip.Prefix{}, err
	}
	valid, void, err := m.reservations(ctx)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("reserve a subnet: %w", err)
	}
	asked, mine := subnet != (netip.Prefix{}), 0
	for _, r := range valid {
		if m.ours(r) {
			mine++
		}
		if asked && r.Asked && r.Subnet == subnet {
			return subnet, nil
		}
		if !r.spoilt || !asked || r.Subnet == subnet { // the key of a spoilt reservation cannot be written
			taken = append(taken, r.occupied())
		}
	}
	if mine >= maxReservations {
		return netip.Prefix{}, refuse(ErrNoSubnet, "Docker on this host is making %d networks already; wait a minute and try again", mine)
	}
	if subnet, err = m.place(ctx, "", subnet, taken); err != nil {
		return netip.Prefix{}, err
	}
	r := reservation{Version: layout, Subnet: subnet, Host: m.host, Life: m.life, Asked: asked}
	value, err := encode(subnet.String(), r)
	if err != nil {
		return netip.Prefix{}, err
	}
	ops := []state.Op{bump}
	put := state.Op{Kind: state.OpCAS, Key: reservationKey(subnet), Value: value}
	for _, old := range void {
		if old.Subnet == subnet {
			put.Version = old.version
		} else {
			ops = append(ops, old.drop())
		}
	}
	if err := m.store.Txn(ctx, append(ops, put)); err != nil {
		return netip.Prefix{}, fmt.Errorf("reserve subnet %s: %w", subnet, err)
	}
	return subnet, nil
}

// networksSubnets returns the subnets of all networks, including those that are being
// deleted.
func (m *Manager) networksSubnets(ctx context.Context) (taken []occupied, err error) {
	entries, err := m.store.List(ctx, NetworksPrefix)
	if err != nil {
		return nil, fmt.Errorf("list networks: %w", err)
	}
	for _, e := range entries {
		name := strings.TrimPrefix(e.Key, NetworksPrefix)
		rec, err := Decode(e)
		subnet := rec.Subnet
		if err != nil {
			var ok bool
			if subnet, ok = salvage(e.Value); !ok {
				continue
			}
		}
		taken = append(taken, occupied{prefix: subnet, network: name})
	}
	return taken, nil
}

// around returns the reserved subnets that a new network must avoid, and the operations
// that delete reservations with its creation. A Docker network may use the subnet that
// was reserved for it.
func (m *Manager) around(ctx context.Context, spec Spec) (taken []occupied, ops []state.Op, err error) {
	valid, void, err := m.reservations(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("create network %q: %w", spec.Name, err)
	}
	for _, r := range valid {
		switch {
		case r.spoilt:
		case !spec.ByDocker || r.Subnet != spec.Subnet || !m.ours(r) && !r.Asked:
			taken = append(taken, r.occupied())
		case m.ours(r):
			ops = append(ops, r.drop())
		}
	}
	for _, r := range void {
		ops = append(ops, r.drop())
	}
	return taken, ops, nil
}

// Keep drops all reservations of this host, except those that this Manager made for the
// given subnets.
func (m *Manager) Keep(ctx context.Context, subnets []netip.Prefix) error {
	entries, err := m.store.List(ctx, ReservationsPrefix)
	if err != nil {
		return fmt.Errorf("list the reserved subnets: %w", err)
	}
	var errs []error
	for _, e := range entries {
		r, err := decodeReservation(e)
		if err != nil || r.Host != m.host || m.ours(r) && slices.Contains(subnets, r.Subnet) {
			continue
		}
		if err := m.store.Txn(ctx, []state.Op{r.drop()}); err != nil && !errors.Is(err, state.ErrConflict) {
			errs = append(errs, fmt.Errorf("give up the reserved subnet %s: %w", r.Subnet, err))
		}
	}
	return errors.Join(errs...)
}
