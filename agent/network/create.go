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

// EnsureDefault returns the network `default`. If it does not exist, EnsureDefault
// creates it on a subnet that is free on every host. Two hosts that do so at once get the
// same network.
func (m *Manager) EnsureDefault(ctx context.Context) (Record, error) {
	rec, _, err := m.Create(ctx, Spec{Name: api.DefaultNetwork})
	return rec, err
}

// Spec describes the network for Create.
type Spec struct {
	Name    string
	Subnet  netip.Prefix // zero: any free subnet
	Gateway netip.Addr   // zero: the first host address of the subnet
	Dynamic netip.Prefix // see Record; zero: the whole subnet, or the range of the existing network
	// AllowMetadata: see Record. If it is false, Create also accepts an existing network
	// that allows it.
	AllowMetadata bool
	ByDocker      bool            // see Record; an existing network keeps its value
	Docker        *api.DockerSpec // settings by Docker's user; nil: none
	DryRun        bool            // only compute the record, which then has no VLAN
}

// aux returns the addresses that Docker's user excludes from the network's endpoints.
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

// Create creates a network. If a network of that name exists with the same subnet,
// gateway, range and AllowMetadata, or if the Spec omits them, Create returns it and
// false. Errors: ErrExists, ErrOverlap, ErrNoSubnet, ErrNoVLAN, ErrBadRecord, an
// *api.Error for an invalid name or subnet, and those of the store.
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

// createOnce makes one attempt. ErrConflict means that the store changed meanwhile, so
// everything that the attempt has read may be outdated.
func (m *Manager) createOnce(ctx context.Context, spec Spec) (Record, bool, error) {
	name, subnet := spec.Name, spec.Subnet
	bump, err := m.bump(ctx) // read before all that it guards
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
	stored, err := m.Get(ctx, name) // reads the record's version
	if errors.Is(err, ErrNotFound) {
		return Record{}, false, fmt.Errorf("create network %q: deleted at once: %w", name, state.ErrConflict)
	}
	return stored, err == nil, err
}

// place checks the requested subnet, or chooses one if the request names none.
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

// triedVLANs is how many VLAN keys freeVLAN gets one by one before it lists all.
const triedVLANs = 3

// freeVLAN returns the lowest VLAN that has no key and belongs to no network. Usually
// only the VLANs of the networks, which are known already, have keys. A Get of one key
// then avoids a List, whose cost grows with the number of networks. put detects a
// concurrent change, because it writes a VLAN's key only if it is absent.
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
		used[id] = true // the key belongs to no readable network
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

// put writes a new network and its VLAN in one transaction with ops. It fails with
// ErrConflict if anything has changed meanwhile.
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

// finish completes a deletion that some host has begun and perhaps not survived. It
// always returns an error; ErrConflict tells the caller to read the network again.
func (m *Manager) finish(ctx context.Context, name string) error {
	err := m.deleteOnce(ctx, name, anyRecord)
	if err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, ErrInUse) {
		return state.ErrConflict // the network is gone or no longer being deleted; both are a change
	}
	return err
}
