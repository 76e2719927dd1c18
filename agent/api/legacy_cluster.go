package api

import "net/http"

// bind chooses the interface, as `cluster bind` does.
func (h *legacy) bind(r *http.Request) (any, error) {
	iface, err := parameter(r, "iface")
	if err == nil {
		_, err = h.cluster.Bind(r.Context(), BindRequest{Iface: iface})
	}
	return nil, err
}

// join enters a cluster. 2015 knew no token: it is the one that lies on the host
// (cluster.token_file), or there is an error.
func (h *legacy) join(r *http.Request) (any, error) {
	address, err := parameter(r, "address")
	if err == nil {
		_, err = h.cluster.Join(r.Context(), JoinRequest{Addresses: []string{address}})
	}
	return nil, err
}

// leave leaves the cluster; a host with endpoints refuses.
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
