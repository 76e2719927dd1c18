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

// ReservationsPrefix is where a subnet is kept for a network that Docker is making:
// it asks for the subnet first, and tells the network's name only afterwards.
// Releases that do not know this key ignore it; they may still take the subnet.
const ReservationsPrefix = state.Prefix + "subnet-reservations/" // + subnet

const (
	// maxReservations bounds what one host may keep at one time.
	maxReservations = 256
	// maxVoid bounds how many void reservations one transaction removes: its
	// operations are limited, see state.MaxTxnOps.
	maxVoid = 32
)

// reservation keeps a subnet. It has no time in it, since the clocks of hosts
// differ. It ends with the life of the manager that made it: another life of the
// same host does not know what it was for, and a host that is not alive makes no network.
type reservation struct {
	Version int          `json:"version"`
	Subnet  netip.Prefix `json:"subnet"`
	Host    string       `json:"host"`
	Life    string       `json:"life"`
	// Asked: the user named the subnet. Another host's user may then ask for the same
	// network at the same moment, as one Compose file on two hosts does.
	Asked bool `json:"asked,omitempty"`

	version uint64 // of the key
	spoilt  bool   // nobody can read it: it keeps nothing but its key
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

// ours says whether this manager has made a reservation.
func (m *Manager) ours(r reservation) bool { return r.Host == m.host && r.Life == m.life }

// reservations reads what is reserved, and apart from it what is so no more.
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
			m.log.Warn("reservation of a subnet is left alone", "err", err)
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

// Reserve keeps a subnet, or any that is free, for a network that this host's Docker
// is making, until Keep is called without it or Create has made the network. A subnet
// that was asked for can be reserved again, also by another host. Errors: ErrOverlap,
// ErrNoSubnet, an *api.Error for a wrong subnet, and those of the store.
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
		if !r.spoilt || !asked || r.Subnet == subnet { // the key of a spoilt one cannot be written
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

// networksSubnets gives what the networks occupy, also those that are being deleted.
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

// around gives what reservations keep from a network that is to be created, and
// what goes from the store with its creation. A network of Docker's may have the
// subnet that was reserved for it.
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

// Keep gives up this host's reservations, but for those of these subnets that were
// made in this life.
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
