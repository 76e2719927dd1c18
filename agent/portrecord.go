package agent

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/stored"
)

// encodePorts encodes ports for a port's external_ids. The result is empty for no ports.
func encodePorts[T any](ports []T) string {
	if len(ports) == 0 {
		return ""
	}
	text, err := json.Marshal(ports)
	if err != nil {
		panic(fmt.Sprintf("published ports: %v", err)) // plain values always encode
	}
	return string(text)
}

func decodePorts[T []E, E any](text string) (T, error) {
	if text == "" {
		return nil, nil
	}
	var ports T
	if err := stored.Unmarshal([]byte(text), &ports); err != nil {
		return nil, err
	}
	return ports, nil
}

// checkPorts returns an error if an endpoint cannot publish the ports, or if the chosen
// host ports do not match them. chosen may be empty.
func checkPorts(ports []api.PortMapping, chosen []uint16) error {
	if len(chosen) != 0 && len(chosen) != len(ports) || slices.Contains(chosen, 0) {
		return fmt.Errorf("%d host ports do not fit %d published ports", len(chosen), len(ports))
	}
	return api.CheckPorts(ports)
}

// published returns the published ports with the chosen host ports filled in.
func (e endpoint) published() []api.PortMapping {
	if len(e.HostPorts) != len(e.Ports) {
		return e.Ports
	}
	ports := slices.Clone(e.Ports)
	for i := range ports {
		ports[i].HostPort = e.HostPorts[i]
	}
	return ports
}
