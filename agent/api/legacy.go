package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
)

// LegacyService is the part of Service that the API of 2015 needs.
type LegacyService interface {
	Status(ctx context.Context) (Status, error)
	CreateNetwork(ctx context.Context, req CreateNetworkRequest) (Network, error)
	Networks(ctx context.Context) ([]Network, error)
	Network(ctx context.Context, id string) (Network, error)
	DeleteNetwork(ctx context.Context, id string) error
	Endpoints(ctx context.Context) ([]Endpoint, error)
	Attach(ctx context.Context, req AttachRequest) (Endpoint, error)
	Release(ctx context.Context, id string) error
}

// NewLegacyHandler serves svc and the Powerstrip adapter like the agent of 2015: under
// /v0.1/, with its response formats and with errors as plain text. Like that agent, it
// ignores Content-Type and unknown fields. Unlike it, which returned 500 for almost every
// error, it returns the status that fits the error.
func NewLegacyHandler(svc LegacyService, cluster ClusterService, adapter http.Handler, logger *slog.Logger) http.Handler {
	h := &legacy{svc: svc, cluster: cluster, logger: logger}
	mux := http.NewServeMux()
	for _, prefix := range []string{"/v0.1", ""} {
		mux.Handle("POST "+prefix+"/adapter", adapter)
	}
	for _, prefix := range []string{"/v0.1", "/v1"} { // Powerstrip requested /v1 from its adapters
		mux.HandleFunc("GET "+prefix+"/ping", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			_, _ = io.WriteString(w, "pong") // the caller has gone if this fails
		})
	}
	for pattern, call := range map[string]func(*http.Request) (any, error){
		"GET /configuration":          h.configuration,
		"POST /configuration":         h.configure,
		"GET /networks":               h.networks,
		"POST /networks":              h.createNetwork,
		"GET /networks/{id...}":       h.network,
		"DELETE /networks":            h.noID, // otherwise the mux redirects it to "/networks/"
		"DELETE /networks/{id...}":    h.deleteNetwork,
		"GET /connections":            h.connections,
		"POST /connections":           h.connect,
		"GET /connections/{id...}":    h.connection,
		"DELETE /connections":         h.noID,
		"DELETE /connections/{id...}": h.disconnect,
		"POST /cluster/bind":          h.bind,
		"POST /cluster/join":          h.join,
		"POST /cluster/leave":         h.leave,
	} {
		method, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" /v0.1"+path, h.serve(call))
	}
	mux.HandleFunc("/", h.serve(func(r *http.Request) (any, error) {
		return nil, Errorf(CodeNotFound, "%s %s is not part of this API", r.Method, shown(r.URL.Path))
	}))
	return mux
}

type legacy struct {
	svc     LegacyService
	cluster ClusterService
	logger  *slog.Logger
}

// noID rejects a request whose path lacks the id.
func (h *legacy) noID(r *http.Request) (any, error) {
	return nil, Errorf(CodeNotFound, "%s %s is not part of this API; the path ends with an id", r.Method, shown(r.URL.Path))
}

// errNotHere marks a call of the 2015 API that this agent does not carry out.
var errNotHere = errors.New("not done by this call")

// serve runs one call and writes its result. A nil result becomes an empty 200.
func (h *legacy) serve(call func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		answer, err := call(r)
		switch {
		case err != nil:
			status := CodeOf(err).HTTPStatus()
			if _, large := errors.AsType[*http.MaxBytesError](err); large {
				status = http.StatusRequestEntityTooLarge
			}
			if errors.Is(err, errNotHere) {
				status = http.StatusNotImplemented
			}
			if status >= http.StatusInternalServerError {
				h.logger.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err, "cause", cause(err))
			}
			http.Error(w, oneLine(err.Error()), status)
		case answer == nil:
			w.WriteHeader(http.StatusOK)
		default:
			h.write(w, answer)
		}
	}
}

// write sends a result in the format of 2015, without a trailing newline.
func (h *legacy) write(w http.ResponseWriter, answer any) {
	data, err := json.Marshal(answer)
	if err != nil { // every result of this API can be encoded
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	if c, ok := answer.(located); ok {
		w.Header().Set("Content-Location", c.location())
	}
	_, _ = w.Write(data) // the caller has gone if this fails
}

// located is a result with a URL for the Content-Location header.
type located interface{ location() string }

// decodeLegacy decodes the body as JSON, whatever its Content-Type.
func decodeLegacy(r *http.Request, into any) error {
	dec := json.NewDecoder(r.Body)
	err := dec.Decode(into)
	if err == nil {
		if _, err = dec.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = errors.New("more follows the JSON value")
		}
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("it is empty")
	}
	return Errorf(CodeInvalid, "request body is not what %s takes: %w", r.URL.Path, err)
}

// legacyConfiguration is the configuration of the bridge in the 2015 API.
type legacyConfiguration struct {
	BridgeIP   string `json:"bridge_ip"`
	BridgeName string `json:"bridge_name"`
	BridgeCIDR string `json:"bridge_cidr"`
	BridgeMTU  int    `json:"bridge_mtu"`
}

// configuration returns the bridge and the default network.
func (h *legacy) configuration(r *http.Request) (any, error) { return h.current(r.Context()) }

func (h *legacy) current(ctx context.Context) (legacyConfiguration, error) {
	st, err := h.svc.Status(ctx)
	if err != nil {
		return legacyConfiguration{}, err
	}
	c := legacyConfiguration{BridgeName: st.Bridge}
	n, err := h.svc.Network(ctx, DefaultNetwork)
	switch {
	case err == nil:
		c.BridgeIP, c.BridgeCIDR, c.BridgeMTU = n.Gateway.String(), n.Subnet.String(), n.MTU
	case CodeOf(err) != CodeNotFound:
		return legacyConfiguration{}, err
	}
	return c, nil
}

// configure accepts the values that are already set and rejects all others. The agent of
// 2015 stored and showed new values but never applied them.
func (h *legacy) configure(r *http.Request) (any, error) {
	var want legacyConfiguration
	if err := decodeLegacy(r, &want); err != nil {
		return nil, err
	}
	have, err := h.current(r.Context())
	if err != nil {
		return nil, err
	}
	for _, f := range []struct{ name, want, have, remedy string }{
		{"bridge_name", want.BridgeName, have.BridgeName, "set ovs.bridge in the settings file"},
		{"bridge_ip", want.BridgeIP, have.BridgeIP, "delete network \"default\" and create it anew"},
		{"bridge_cidr", want.BridgeCIDR, have.BridgeCIDR, "delete network \"default\" and create it anew"},
	} {
		if f.want != "" && f.want != f.have {
			return nil, fmt.Errorf("%s is %s, and a change is %w; %s", f.name, shown(f.have), errNotHere, f.remedy)
		}
	}
	if want.BridgeMTU != 0 && want.BridgeMTU != have.BridgeMTU {
		return nil, fmt.Errorf("bridge_mtu is %d, and a change is %w; it follows the hosts' interfaces", have.BridgeMTU, errNotHere)
	}
	return nil, nil
}
