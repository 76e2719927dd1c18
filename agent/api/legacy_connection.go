package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// maxPID is the largest process id on Linux (PID_MAX_LIMIT).
const maxPID = 1 << 22

// legacyConnection is an attached container in the 2015 format.
type legacyConnection struct {
	ContainerID   string        `json:"container_id"`
	ContainerName string        `json:"container_name"`
	ContainerPID  legacyPID     `json:"container_pid"`
	Network       string        `json:"network"`
	OVSPortID     string        `json:"ovs_port_id"`
	Details       legacyDetails `json:"connection_details"`
}

type legacyDetails struct {
	Name    string `json:"name"` // of the port
	IP      string `json:"ip"`
	Subnet  string `json:"subnet"` // only the prefix length: "/16"
	MAC     string `json:"mac"`
	Gateway string `json:"gateway"`
}

func (c legacyConnection) location() string { return "/v0.1/connections/" + c.ContainerID }

// legacyPID is a process id. It is encoded as a string, and decoded from a string or a
// number.
type legacyPID int

// MarshalJSON implements json.Marshaler.
func (p legacyPID) MarshalJSON() ([]byte, error) {
	return []byte(`"` + strconv.Itoa(int(p)) + `"`), nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (p *legacyPID) UnmarshalJSON(data []byte) error {
	text := string(data)
	if len(data) > 0 && data[0] == '"' {
		if err := json.Unmarshal(data, &text); err != nil {
			return err
		}
		text = strings.TrimSpace(text) // shell scripts may add white space
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n < 1 || n > maxPID {
		return Errorf(CodeInvalid, "container_pid %s is no process id: 1 to %d, of a container that runs", shown(text), maxPID)
	}
	*p = legacyPID(n)
	return nil
}

// namespacePath returns the path of the process's network namespace.
func (p legacyPID) namespacePath() string { return fmt.Sprintf("/proc/%d/ns/net", int(p)) }

// pidOf returns the process id in the path of an endpoint's namespace, or 0 if the path is
// not of the form /proc/PID/ns/net.
func pidOf(netns string) legacyPID {
	text, isProc := strings.CutPrefix(netns, "/proc/")
	text, isNet := strings.CutSuffix(text, "/ns/net")
	n, err := strconv.ParseUint(text, 10, 32)
	if !isProc || !isNet || err != nil || n > maxPID {
		return 0
	}
	return legacyPID(n)
}

// showLegacyConnection converts an endpoint to the 2015 format. It prefixes the name with
// a slash, like Docker and the scripts of 2015.
func showLegacyConnection(e Endpoint) legacyConnection {
	name := e.ContainerName
	if name != "" {
		name = "/" + name
	}
	return legacyConnection{
		ContainerID: e.ContainerID, ContainerName: name, ContainerPID: pidOf(e.NetNS), Network: e.Network, OVSPortID: e.Port,
		Details: legacyDetails{
			Name: e.Port, IP: e.IP.String(), Subnet: "/" + strconv.Itoa(e.PrefixLen), MAC: e.MAC, Gateway: e.Gateway.String(),
		},
	}
}

// connections returns the endpoints that are attached on this host, whatever their Source,
// keyed by container id. The key of a container's second interface is its endpoint id.
func (h *legacy) connections(r *http.Request) (any, error) {
	all, err := h.svc.Endpoints(r.Context())
	if err != nil {
		return nil, err
	}
	shown := map[string]legacyConnection{}
	for _, e := range all {
		if !e.Attached {
			continue
		}
		key := e.ContainerID
		if _, second := shown[key]; second {
			key = e.ID
		}
		shown[key] = showLegacyConnection(e)
	}
	return shown, nil
}

// find returns the attached endpoint of a container. The id must be complete.
func (h *legacy) find(r *http.Request) (Endpoint, error) {
	id := r.PathValue("id")
	if err := CheckEndpointID(id); err != nil {
		return Endpoint{}, err
	}
	all, err := h.svc.Endpoints(r.Context())
	if err != nil {
		return Endpoint{}, err
	}
	for _, same := range []func(Endpoint) bool{
		func(e Endpoint) bool { return e.ID == id },
		func(e Endpoint) bool { return e.ContainerID == id },
	} {
		for _, e := range all {
			if e.Attached && same(e) {
				return e, nil
			}
		}
	}
	return Endpoint{}, Errorf(CodeNotFound, "container %q is not connected on this host; the id must be complete", id)
}

func (h *legacy) connection(r *http.Request) (any, error) {
	e, err := h.find(r)
	if err != nil {
		return nil, err
	}
	return showLegacyConnection(e), nil
}

// connect attaches a running container. Its process id is the one in the agent's PID
// namespace.
func (h *legacy) connect(r *http.Request) (any, error) {
	var body struct {
		ContainerID   string    `json:"container_id"`
		ContainerName string    `json:"container_name"`
		ContainerPID  legacyPID `json:"container_pid"`
		Network       string    `json:"network"`
	}
	if err := decodeLegacy(r, &body); err != nil {
		return nil, err
	}
	if err := CheckEndpointID(body.ContainerID); err != nil {
		return nil, fmt.Errorf("container_id: %w", err)
	}
	if body.ContainerPID == 0 {
		return nil, Errorf(CodeInvalid, "container_pid is missing; give that of a container that runs")
	}
	if body.Network == "" {
		body.Network = DefaultNetwork
	}
	// Docker shows names with a leading slash.
	name := strings.TrimPrefix(body.ContainerName, "/")
	if err := CheckContainerName(name); err != nil {
		return nil, err
	}
	if err := CheckNetworkRef(body.Network); err != nil {
		return nil, err
	}
	e, err := h.svc.Attach(r.Context(), AttachRequest{
		ID: body.ContainerID, ContainerName: name, Network: body.Network, Source: SourceLegacy, NetNS: body.ContainerPID.namespacePath(),
	})
	if err != nil {
		return nil, err
	}
	c := showLegacyConnection(e)
	c.ContainerPID, c.ContainerName = body.ContainerPID, body.ContainerName
	return c, nil
}

// disconnect releases an endpoint of SourceLegacy. It rejects endpoints of other sources.
func (h *legacy) disconnect(r *http.Request) (any, error) {
	id := r.PathValue("id")
	if err := CheckEndpointID(id); err != nil {
		return nil, err
	}
	all, err := h.svc.Endpoints(r.Context())
	if err != nil {
		return nil, err
	}
	var other *Endpoint
	for _, e := range all {
		switch {
		case e.ID == id && e.Source == SourceLegacy: // also if the process is gone and the endpoint only holds its address
			return nil, h.svc.Release(r.Context(), id)
		case e.ID == id || e.ContainerID == id:
			other = &e
		}
	}
	if other != nil {
		return nil, Errorf(CodeConflict, "container %q was not connected by this API but by %q; remove the container, or disconnect it there", id, other.Source)
	}
	return nil, Errorf(CodeNotFound, "container %q is not connected on this host; the id must be complete", id)
}
