package api

import "net/http"

// legacyNetwork is a network in the 2015 format.
type legacyNetwork struct {
	ID      string `json:"id"`
	Subnet  string `json:"subnet"`
	Gateway string `json:"gateway"`
	VLAN    int    `json:"vlan"`
}

func showLegacyNetwork(n Network) legacyNetwork {
	return legacyNetwork{ID: n.ID, Subnet: n.Subnet.String(), Gateway: n.Gateway.String(), VLAN: n.VLAN}
}

func (h *legacy) networks(r *http.Request) (any, error) {
	all, err := h.svc.Networks(r.Context())
	if err != nil {
		return nil, err
	}
	shown := make([]legacyNetwork, 0, len(all))
	for _, n := range all {
		shown = append(shown, showLegacyNetwork(n))
	}
	return shown, nil
}

func (h *legacy) network(r *http.Request) (any, error) {
	id := r.PathValue("id")
	if err := CheckNetworkRef(id); err != nil {
		return nil, err
	}
	n, err := h.svc.Network(r.Context(), id)
	if err != nil {
		return nil, err
	}
	return showLegacyNetwork(n), nil
}

// createNetwork creates a network. It clears the host bits of the subnet. Without a subnet
// it selects a free one. Like the agent of 2015, it ignores a gateway and a VLAN in the
// body.
func (h *legacy) createNetwork(r *http.Request) (any, error) {
	var body struct {
		ID     string `json:"id"`
		Subnet string `json:"subnet"`
	}
	if err := decodeLegacy(r, &body); err != nil {
		return nil, err
	}
	req := CreateNetworkRequest{ID: body.ID}
	if err := CheckNetworkName(body.ID); err != nil {
		return nil, err
	}
	if body.Subnet != "" {
		subnet, _, err := ParseCIDR(body.Subnet)
		if err != nil {
			return nil, err
		}
		req.Subnet = subnet.String()
	}
	n, err := h.svc.CreateNetwork(r.Context(), req)
	if err != nil {
		return nil, err
	}
	return showLegacyNetwork(n), nil
}

func (h *legacy) deleteNetwork(r *http.Request) (any, error) {
	id := r.PathValue("id")
	if err := CheckNetworkRef(id); err != nil {
		return nil, err
	}
	return nil, h.svc.DeleteNetwork(r.Context(), id)
}
