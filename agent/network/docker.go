package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/stored"
	"github.com/socketplane/socketplane/ipam"
)

// DockersPrefix is the prefix of the options and labels with which a user of Docker
// created a network. They are not in the record, because releases that do not know them
// reject a record with additional fields. Those releases ignore this key.
const DockersPrefix = state.Prefix + "docker-networks/" // + network name

func dockersKey(name string) string { return DockersPrefix + name }

// auxPrefix is the prefix of the options that hold addresses excluded from endpoints
// (--aux-address). The addresses are stored as options because a release that does not
// know such an option omits it and preserves the others.
const auxPrefix = "com.docker.network.socketplane.aux-address." // + Docker's name of the address

// networksOwner is the prefix of the owner, in ipam, of an address that a network
// excludes from its endpoints. It takes the place of a host ID and is not a valid one.
const networksOwner = "network/" // + address

// KeepsAddress reports whether the owner of an address is its network.
func KeepsAddress(owner string) bool { return strings.HasPrefix(owner, networksOwner) }

// dockersValue is the value under DockersPrefix. Subnet distinguishes the network from an
// earlier one of the same name, because a release that does not know the key does not
// delete it.
type dockersValue struct {
	Version int               `json:"version"`
	Subnet  netip.Prefix      `json:"subnet"`
	Options map[string]string `json:"options,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
}

// DockerSpec returns the options and labels with which a user of Docker created the
// network. It returns an empty DockerSpec if there are none.
func (m *Manager) DockerSpec(ctx context.Context, name string, subnet netip.Prefix) (api.DockerSpec, error) {
	if err := api.CheckNetworkName(name); err != nil {
		return api.DockerSpec{}, err
	}
	e, err := m.store.Get(ctx, dockersKey(name))
	switch {
	case errors.Is(err, state.ErrNotFound):
		return api.DockerSpec{}, nil
	case err != nil:
		return api.DockerSpec{}, fmt.Errorf("network %q: options of Docker: %w", name, err)
	}
	var v dockersValue
	err = stored.Read(e.Value, layout, &v)
	spec := api.DockerSpec{Options: v.Options, Labels: v.Labels}
	if err == nil {
		err = readAux(&spec, v.Subnet)
	}
	if err == nil {
		err = spec.Check()
	}
	if err != nil {
		if m.left.news(e.Key, e.Version) {
			m.log.Warn("options and labels of a Docker network are left alone", "network", name, "err", &BadRecordError{Key: e.Key, Cause: err})
		}
		return api.DockerSpec{}, nil
	}
	if v.Subnet != subnet {
		return api.DockerSpec{}, nil
	}
	return spec, nil
}

// dockersOps returns the operations that store the Docker settings of a new network, or
// that delete those of an earlier one. It returns none if there is nothing to do.
func (m *Manager) dockersOps(ctx context.Context, rec Record, spec *api.DockerSpec) ([]state.Op, error) {
	e, err := m.store.Get(ctx, dockersKey(rec.ID))
	if err != nil && !errors.Is(err, state.ErrNotFound) {
		return nil, fmt.Errorf("network %q: options of Docker: %w", rec.ID, err)
	}
	there := err == nil
	if spec == nil || len(spec.Options)+len(spec.Labels)+len(spec.Aux) == 0 {
		if there {
			return []state.Op{{Kind: state.OpDelete, Key: e.Key, Version: e.Version}}, nil
		}
		return nil, nil
	}
	value, err := encode(rec.ID, dockersValue{Version: layout, Subnet: rec.Subnet, Options: withAux(*spec), Labels: spec.Labels})
	if err != nil {
		return nil, err
	}
	return []state.Op{{Kind: state.OpCAS, Key: dockersKey(rec.ID), Value: value, Version: e.Version}}, nil
}

// withAux returns the options of spec in their stored form.
func withAux(spec api.DockerSpec) map[string]string {
	if len(spec.Aux) == 0 {
		return spec.Options
	}
	options := map[string]string{}
	maps.Copy(options, spec.Options)
	for name, addr := range spec.Aux {
		options[auxPrefix+name] = addr.String()
	}
	return options
}

// readAux is the inverse of withAux.
func readAux(spec *api.DockerSpec, subnet netip.Prefix) error {
	options := map[string]string{}
	for key, value := range spec.Options {
		name, ok := strings.CutPrefix(key, auxPrefix)
		if !ok {
			options[key] = value
			continue
		}
		addr, err := netip.ParseAddr(value)
		if err != nil || !subnet.Contains(addr) {
			return fmt.Errorf("%.40q is no address of %s", value, subnet)
		}
		if spec.Aux == nil {
			spec.Aux = map[string]netip.Addr{}
		}
		spec.Aux[name] = addr
	}
	if len(spec.Aux) > 0 {
		spec.Options = options
	}
	return nil
}

// checkAux rejects addresses that a network cannot exclude from its endpoints.
func checkAux(name string, aux map[string]netip.Addr, subnet netip.Prefix, gateway netip.Addr) error {
	for _, addr := range aux {
		switch {
		case !isHostAddress(subnet, addr):
			return api.Errorf(api.CodeInvalid, "network %q: %s (--aux-address) is no host address of %s", name, addr, subnet)
		case addr == gateway:
			return api.Errorf(api.CodeInvalid, "network %q: %s (--aux-address) is its gateway; leave it out", name, addr)
		}
	}
	return nil
}

// keepAux returns the operations that exclude the addresses from a new network's
// endpoints, on every host and in every release.
func (m *Manager) keepAux(ctx context.Context, rec Record, aux map[string]netip.Addr) ([]state.Op, error) {
	if len(aux) == 0 {
		return nil, nil
	}
	if err := checkAux(rec.ID, aux, rec.Subnet, rec.Gateway); err != nil {
		return nil, err
	}
	owners := map[netip.Addr]string{}
	for _, addr := range aux {
		owners[addr] = networksOwner + addr.String()
	}
	// Late writes of an earlier network with the subnet may exist.
	entries, err := m.store.List(ctx, ipam.Prefix(rec.Subnet))
	if err != nil {
		return nil, fmt.Errorf("network %q: read the addresses of %s: %w", rec.ID, rec.Subnet, err)
	}
	host := m.host
	if host == "" {
		host = strings.TrimSuffix(networksOwner, "/")
	}
	ops, err := ipam.Keep(ipam.Pool{Subnet: rec.Subnet, Gateway: rec.Gateway}, host, owners, entries)
	if err != nil {
		return nil, fmt.Errorf("network %q: keep the addresses of --aux-address: %w", rec.ID, err)
	}
	return ops, nil
}

// sameAux returns ErrExists unless an existing network excludes all the addresses from
// its endpoints.
func (m *Manager) sameAux(ctx context.Context, rec Record, aux map[string]netip.Addr) error {
	if len(aux) == 0 {
		return nil
	}
	has, err := m.DockerSpec(ctx, rec.ID, rec.Subnet)
	if err != nil {
		return err
	}
	for _, addr := range slices.SortedFunc(maps.Values(aux), netip.Addr.Compare) {
		if !has.Keeps(addr) {
			return refuse(ErrExists, "network %q exists and does not keep %s (--aux-address); choose another name, or leave the address out to use it as it is", rec.ID, addr)
		}
	}
	return nil
}
