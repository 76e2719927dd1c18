package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/stored"
)

// DockersPrefix is where the options and labels lie with which a user of Docker made a
// network. They are beside its record because releases that do not know them refuse a
// record with more fields; those releases ignore this key.
const DockersPrefix = state.Prefix + "docker-networks/" // + name

func dockersKey(name string) string { return DockersPrefix + name }

// dockersValue is such a value. The subnet tells a network from an earlier one of its
// name: a release that does not know the key leaves it behind.
type dockersValue struct {
	Version int               `json:"version"`
	Subnet  netip.Prefix      `json:"subnet"`
	Options map[string]string `json:"options,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
}

// DockerSpec gives the options and labels with which a user of Docker made a network;
// none where nobody knows them.
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
		err = spec.Check()
	}
	if err != nil {
		m.log.Warn("options and labels of a Docker network are left alone", "network", name, "err", &BadRecordError{Key: e.Key, Cause: err})
		return api.DockerSpec{}, nil
	}
	if v.Subnet != subnet {
		return api.DockerSpec{}, nil
	}
	return spec, nil
}

// dockersOps writes what Docker's user gave a network that is created, or removes what
// is left of an earlier one. It gives no operation where there is nothing to do.
func (m *Manager) dockersOps(ctx context.Context, rec Record, spec *api.DockerSpec) ([]state.Op, error) {
	e, err := m.store.Get(ctx, dockersKey(rec.ID))
	if err != nil && !errors.Is(err, state.ErrNotFound) {
		return nil, fmt.Errorf("network %q: options of Docker: %w", rec.ID, err)
	}
	there := err == nil
	if spec == nil || len(spec.Options)+len(spec.Labels) == 0 {
		if there {
			return []state.Op{{Kind: state.OpDelete, Key: e.Key, Version: e.Version}}, nil
		}
		return nil, nil
	}
	value, err := encode(rec.ID, dockersValue{Version: layout, Subnet: rec.Subnet, Options: spec.Options, Labels: spec.Labels})
	if err != nil {
		return nil, err
	}
	return []state.Op{{Kind: state.OpCAS, Key: dockersKey(rec.ID), Value: value, Version: e.Version}}, nil
}
