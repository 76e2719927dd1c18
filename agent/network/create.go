package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/state"
)

// EnsureDefault gives the network `default`, and makes it on a subnet that is
// free on every host if it is not there. Two hosts that do so at once get the
// same one.
func (m *Manager) EnsureDefault(ctx context.Context) (Record, error) {
	rec, _, err := m.Create(ctx, Spec{Name: api.DefaultNetwork})
	return rec, err
}

// Spec is the network that Create is asked for.
type Spec struct {
	Name    string
	Subnet  netip.Prefix // the zero Prefix: any that is free
	Gateway netip.Addr   // the zero Addr: the subnet's first host address
	Dynamic netip.Prefix // see Record; the zero Prefix: all of the subnet, or as an existing network has it
	// AllowMetadata: see Record. Without it, too, an existing network that allows it is given.
	AllowMetadata bool
	ByDocker      bool            // see Record; an existing network stays what it is
	Docker        *api.DockerSpec // with what Docker's user made it; nil: with nothing
	DryRun        bool            // only say what would be made; the record has no VLAN then
}

// aux are the addresses that Docker's user keeps from the network's endpoints.
func (s Spec) aux() map[string]netip.Addr {
	if s.Docker == nil {
		return nil
	}
	return s.Docker.Aux
}

func (s Spec) check() error {
	if err := api.CheckNetworkName(s.Name); err != nil {
		return err
	}
	if s.Subnet != (netip.Prefix{}) {
		if _, err := api.ParseSubnet(s.Subnet.String()); err != nil {
			return err
		}
	}
	if s.Docker != nil {
		if err := s.Docker.Check(); err != nil {
			return err
		}
	}
	if s.Dynamic != (netip.Prefix{}) {
		if s.Subnet == (netip.Prefix{}) {
			return api.Errorf(api.CodeInvalid, "network %q: a range of dynamic addresses needs a subnet; give both", s.Name)
		}
		if _, err := api.ParseRange(s.Dynamic.String(), s.Subnet); err != nil {
			return err
		}
	}
	switch {
	case !s.Gateway.IsValid():
		return nil
	case s.Subnet == (netip.Prefix{}):
		return api.Errorf(api.CodeInvalid, "network %q: a gateway needs a subnet; give both", s.Name)
	case !isHostAddress(s.Subnet, s.Gateway):
		return api.Errorf(api.CodeInvalid, "network %q: gateway %s is no host address of %s", s.Name, s.Gateway, s.Subnet)
	}
	return nil
}

// Create makes a network. The same name with the same subnet, gateway, range and
// AllowMetadata, or with none, gives the existing network and false.
// Errors: ErrExists, ErrOverlap, ErrNoSubnet, ErrNoVLAN, ErrBadRecord, an
// *api.Error for a wrong name or subnet, and those of the store.
func (m *Manager) Create(ctx context.Context, spec Spec) (Record, bool, error) {
	if err := spec.check(); err != nil {
		return Record{}, false, err
	}
	name := spec.Name
	for lost := 0; ; lost++ {
		rec, created, err := m.createOnce(ctx, spec)
		if !errors.Is(err, state.ErrConflict) {
			if created {
				m.log.Info("network created", "network", name, "subnet", rec.Subnet, "vlan", rec.VLAN, "vni", rec.VNI)
			}
			return rec, created, err
		}
		if err := pause(ctx, lost); err != nil {
			return Record{}, false, fmt.Errorf("create network %q: %w", name, err)
		}
	}
}

// createOnce tries once. ErrConflict: something was changed meanwhile, and all
// that this try has read may be wrong.
func (m *Manager) createOnce(ctx context.Context, spec Spec) (Record, bool, error) {
	name, subnet := spec.Name, spec.Subnet
	bump, err := m.bump(ctx) // read before everything that it guards
	if err != nil {
		return Record{}, false, err
	}
	entries, err := m.store.List(ctx, NetworksPrefix)
	if err != nil {
		return Record{}, false, fmt.Errorf("create network %q: %w", name, err)
	}
	var taken []occupied
	vlans := map[int]bool{}
	for _, e := range entries {
		rec, err := Decode(e)
		switch {
		case err != nil && e.Key == Key(name):
			return Record{}, false, err
		case err != nil:
			if m.left.news(e.Key, e.Version) {
				m.log.Warn("network record is left alone", "network", strings.TrimPrefix(e.Key, NetworksPrefix), "err", err)
			}
			if p, ok := salvage(e.Value); ok {
				taken = append(taken, occupied{prefix: p, network: strings.TrimPrefix(e.Key, NetworksPrefix)})
			}
		case rec.ID == name && rec.Deleting && !spec.DryRun:
			return Record{}, false, m.finish(ctx, name)
		case rec.ID == name && subnet != (netip.Prefix{}) && subnet != rec.Subnet:
			return Record{}, false, refuse(ErrExists, "network %q exists with subnet %s; choose another name, or omit the subnet to use it as it is", name, rec.Subnet)
		case rec.ID == name && spec.Gateway.IsValid() && spec.Gateway != rec.Gateway:
			return Record{}, false, refuse(ErrExists, "network %q exists with gateway %s; choose another name, or omit the gateway to use it as it is", name, rec.Gateway)
		case rec.ID == name && spec.Dynamic.IsValid() && spec.Dynamic != rec.Dynamic:
			return Record{}, false, refuse(ErrExists, "network %q exists and %s; choose another name, or omit the range to use it as it is", name, rec.dynamic())
		case rec.ID == name && spec.AllowMetadata && !rec.AllowMetadata:
			return Record{}, false, refuse(ErrExists, "network %q exists and keeps its containers from the cloud's metadata; choose another name, or leave allow-metadata out to use it as it is", name)
		case rec.ID == name:
			return rec, false, m.sameAux(ctx, rec, spec.aux())
		default:
			taken = append(taken, occupied{prefix: rec.Subnet, network: rec.ID})
			vlans[rec.VLAN] = true
		}
	}
	reserved, gone, err := m.around(ctx, spec)
	if err != nil {
		return Record{}, false, err
	}
	if subnet, err = m.place(ctx, name, subnet, append(taken, reserved...)); err != nil {
		return Record{}, false, err
	}
	rec := Record{ID: name, Subnet: subnet, Gateway: spec.Gateway, Dynamic: spec.Dynamic, AllowMetadata: spec.AllowMetadata, ByDocker: spec.ByDocker}
	if !rec.Gateway.IsValid() {
		rec.Gateway = subnet.Addr().Next()
	}
	kept, err := m.keepAux(ctx, rec, spec.aux())
	if err != nil {
		return Record{}, false, err
	}
	if spec.DryRun {
		return rec, false, nil
	}
	vlan, err := m.freeVLAN(ctx, name, vlans)
	if err != nil {
		return Record{}, false, err
	}
	rec.VLAN, rec.VNI = vlan, uint32(VNIBase+vlan)
	dockers, err := m.dockersOps(ctx, rec, spec.Docker)
	if err != nil {
		return Record{}, false, err
	}
	if err := m.put(ctx, rec, slices.Concat(gone, []state.Op{bump}, dockers, kept)); err != nil {
		return Record{}, false, err
	}
	stored, err := m.Get(ctx, name) // for its version
	if errors.Is(err, ErrNotFound) {
		return Record{}, false, fmt.Errorf("create network %q: deleted at once: %w", name, state.ErrConflict)
	}
	return stored, err == nil, err
}

// place checks the subnet that was asked for, or chooses one.
func (m *Manager) place(ctx context.Context, name string, subnet netip.Prefix, taken []occupied) (netip.Prefix, error) {
	routes, err := m.routes(ctx)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("create network %q: read the hosts' routes: %w", name, err)
	}
	for _, r := range routes {
		if r.matters() {
			taken = append(taken, occupied{prefix: r.Prefix, host: r.Host})
		}
	}
	if subnet == (netip.Prefix{}) {
		chosen, ok := freeSubnet(taken)
		if !ok {
			return netip.Prefix{}, refuse(ErrNoSubnet, "network %q: every private subnet overlaps a network or a route of a host; give a subnet, or delete a network that is not used", name)
		}
		return chosen, nil
	}
	if o, clash := overlapping(subnet, taken); clash {
		return netip.Prefix{}, refuse(ErrOverlap, "network %q: subnet %s overlaps %s; choose another or omit it", name, subnet, o)
	}
	return subnet, nil
}

// triedVLANs is how many VLAN keys freeVLAN asks for one by one before it lists all.
const triedVLANs = 3

// freeVLAN gives the lowest VLAN that has no key and is no network's. The networks
// have been read, and nearly always their VLANs are all that have a key: asking for
// one key saves reading them all, which grows with the networks. What happens in
// between is caught by put, which writes a VLAN's key only where there is none.
func (m *Manager) freeVLAN(ctx context.Context, name string, used map[int]bool) (int, error) {
	for range triedVLANs {
		id, ok := lowestVLAN(used)
		if !ok {
			return 0, noVLAN(name)
		}
		_, err := m.store.Get(ctx, VLANKey(id))
		if errors.Is(err, state.ErrNotFound) {
			return id, nil
		}
		if err != nil {
			return 0, fmt.Errorf("create network %q: %w", name, err)
		}
		used[id] = true // a key without a network that can be read
	}
	keys, err := m.store.List(ctx, VLANsPrefix)
	if err != nil {
		return 0, fmt.Errorf("create network %q: %w", name, err)
	}
	for _, e := range keys {
		if id, err := strconv.Atoi(strings.TrimPrefix(e.Key, VLANsPrefix)); err == nil {
			used[id] = true
		}
	}
	if id, ok := lowestVLAN(used); ok {
		return id, nil
	}
	return 0, noVLAN(name)
}

func lowestVLAN(used map[int]bool) (int, bool) {
	for id := 1; id <= MaxVLAN; id++ {
		if !used[id] {
			return id, true
		}
	}
	return 0, false
}

func noVLAN(name string) error {
	return refuse(ErrNoVLAN, "network %q: all %d VLANs are taken; delete a network that is not used", name, MaxVLAN)
}

// put writes a new network and its VLAN, with what else belongs to its creation, if
// nothing has changed meanwhile.
func (m *Manager) put(ctx context.Context, rec Record, ops []state.Op) error {
	value, err := rec.encode()
	if err != nil {
		return err
	}
	vlan, err := encode(rec.ID, vlanValue{Version: layout, Network: rec.ID})
	if err != nil {
		return err
	}
	err = m.store.Txn(ctx, append(ops,
		state.Op{Kind: state.OpCAS, Key: VLANKey(rec.VLAN), Value: vlan},
		state.Op{Kind: state.OpCAS, Key: Key(rec.ID), Value: value},
	))
	if err != nil {
		return fmt.Errorf("create network %q: %w", rec.ID, err)
	}
	return nil
}

// finish ends a deletion that somebody has begun, and may have died of. It
// always gives an error: ErrConflict tells the caller to look again.
func (m *Manager) finish(ctx context.Context, name string) error {
	err := m.deleteOnce(ctx, name, anyRecord)
	if err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, ErrInUse) {
		return state.ErrConflict // gone, or there again: either way not as it was
	}
	return err
}
