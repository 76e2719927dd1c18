package api

import "net/http"

// bind selects the interface, like `cluster bind`.
func (h *legacy) bind(r *http.Request) (any, error) {
	iface, err := parameter(r, "iface")
	if err == nil {
		_, err = h.cluster.Bind(r.Context(), BindRequest{Iface: iface})
	}
	return nil, err
}

// join joins a cluster. The 2015 API has no token, so the call uses the token on the host
// (cluster.token_file) and fails if there is none.
func (h *legacy) join(r *http.Request) (any, error) {
	address, err := parameter(r, "address")
	if err == nil {
		_, err = h.cluster.Join(r.Context(), JoinRequest{Addresses: []string{address}})
	}
	return nil, err
}

// leave leaves the cluster. It fails if the host has endpoints.
func (h *legacy) leave(r *http.Request) (any, error) {
	_, err := h.cluster.Leave(r.Context(), LeaveRequest{})
	return nil, err
}

func parameter(r *http.Request, name string) (string, error) {
	value := r.URL.Query().Get(name)
	if value == "" {
		return "", Errorf(CodeInvalid, "parameter %s is missing; write %s?%s=...", name, r.URL.Path, name)
	}
	return value, nil
}
