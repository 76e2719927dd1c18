package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/socketplane/socketplane/agent/api"
)

// encodePorts writes published ports for a port's external_ids; empty for none.
func encodePorts(ports []api.PortMapping) string {
	if len(ports) == 0 {
		return ""
	}
	text, err := json.Marshal(ports)
	if err != nil {
		panic(fmt.Sprintf("published ports: %v", err)) // plain values always encode
	}
	return string(text)
}

func decodePorts(text string) ([]api.PortMapping, error) {
	if text == "" {
		return nil, nil
	}
	var ports []api.PortMapping
	dec := json.NewDecoder(bytes.NewReader([]byte(text)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&ports); err != nil {
		return nil, err
	}
	return ports, api.CheckPorts(ports)
}

// Publish implements api.Service.
func (a *Agent) Publish(ctx context.Context, id string, ports []api.PortMapping) (api.Endpoint, error) {
	if err := api.CheckEndpointID(id); err != nil {
		return api.Endpoint{}, err
	}
	if err := api.CheckPorts(ports); err != nil {
		return api.Endpoint{}, err
	}
	if err := a.awaitLoaded(ctx); err != nil {
		return api.Endpoint{}, err
	}
	unlock, err := a.lockID(ctx, id)
	if err != nil {
		return api.Endpoint{}, err
	}
	defer unlock()
	l, ok := a.table.get(id)
	if !ok || l.Releasing {
		return api.Endpoint{}, api.Errorf(api.CodeNotFound, "endpoint %q is not there; see: socketplane info", id)
	}
	l.Ports = ports
	a.table.put(l)
	signal(a.kick)
	return a.shown(l, a.recordHere(l.Network)), nil
}
