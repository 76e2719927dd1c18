package api

import (
	"context"
	"log/slog"
	"net/http"
)

// tokenPath is the path that returns the cluster's token.
const tokenPath = "/v1/cluster/token"

// NewClusterHandler serves svc as HTTP under /v1/cluster.
func NewClusterHandler(svc ClusterService, logger *slog.Logger) http.Handler {
	h := &handler{logger: logger}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/cluster", h.serve(func(r *http.Request) (any, error) { return svc.Place(r.Context()) }))
	mux.HandleFunc("GET /v1/cluster/members", h.serve(func(r *http.Request) (any, error) { return svc.Members(r.Context()) }))
	mux.HandleFunc("GET "+tokenPath, h.serve(func(r *http.Request) (any, error) { return svc.Token(r.Context()) }))
	mux.HandleFunc("POST /v1/cluster/bootstrap", h.serve(withBody(svc.Bootstrap)))
	mux.HandleFunc("POST /v1/cluster/join", h.serve(withBody(svc.Join)))
	mux.HandleFunc("POST /v1/cluster/leave", h.serve(withBody(svc.Leave)))
	mux.HandleFunc("POST /v1/cluster/bind", h.serve(withBody(svc.Bind)))
	mux.HandleFunc("/", h.serve(func(r *http.Request) (any, error) {
		return nil, Errorf(CodeNotFound, "%s %s is not part of this API", r.Method, shown(r.URL.Path))
	}))
	return mux
}

// NewWaitingHandler serves an agent that waits for something. It serves the status, and
// rejects every other request with the reason for the wait.
func NewWaitingHandler(status func(context.Context) (Status, error), why func() string, logger *slog.Logger) http.Handler {
	h := &handler{logger: logger}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", h.serve(func(r *http.Request) (any, error) { return status(r.Context()) }))
	mux.HandleFunc("/", h.serve(func(*http.Request) (any, error) {
		return nil, Errorf(CodeUnavailable, "the agent waits: %s", why())
	}))
	return mux
}
