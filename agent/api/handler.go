package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
)

// maxBody bounds a request, in bytes. The largest valid request, with all its published
// ports, is below 32 KiB.
const maxBody = 64 << 10

// errorBody is the JSON form of an Error.
type errorBody struct {
	Error struct {
		Code    Code   `json:"code"`
		Message string `json:"message"`
		Cause   string `json:"cause,omitempty"` // the error chain, for --debug
	} `json:"error"`
}

// publishRequest is the JSON body of a Publish call.
type publishRequest struct {
	ID    string        `json:"id"`
	Ports []PortMapping `json:"ports"`
}

// routesRequest is the JSON body of a SetRoutes call.
type routesRequest struct {
	ID     string   `json:"id"`
	Routes []string `json:"routes"`
}

// NewHandler serves svc as HTTP under /v1/.
func NewHandler(svc Service, logger *slog.Logger) http.Handler {
	h := &handler{logger: logger}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", h.serve(func(r *http.Request) (any, error) {
		return svc.Status(r.Context())
	}))
	mux.HandleFunc("GET /v1/networks", h.serve(func(r *http.Request) (any, error) {
		return svc.Networks(r.Context())
	}))
	mux.HandleFunc("POST /v1/networks", h.serve(withBody(svc.CreateNetwork)))
	mux.HandleFunc("GET /v1/networks/{id}", h.serve(withID(CheckNetworkRef, svc.Network)))
	mux.HandleFunc("DELETE /v1/networks/{id}", h.serve(withID(CheckNetworkRef, nothing(svc.DeleteNetwork))))
	mux.HandleFunc("GET /v1/endpoints", h.serve(func(r *http.Request) (any, error) {
		switch all := r.URL.Query()["all"]; {
		case len(all) == 0:
			return svc.Endpoints(r.Context())
		case len(all) == 1 && all[0] == "true":
			return svc.AllEndpoints(r.Context())
		default:
			return nil, Errorf(CodeInvalid, "the query %s is not known; write all=true, or leave it out", shown(r.URL.RawQuery))
		}
	}))
	mux.HandleFunc("GET /v1/drops", h.serve(func(r *http.Request) (any, error) {
		return svc.Drops(r.Context())
	}))
	mux.HandleFunc("POST /v1/holds", h.serve(withBody(svc.Hold)))
	mux.HandleFunc("DELETE /v1/holds/{network}/{ip}", h.serve(func(r *http.Request) (any, error) {
		network, ip := r.PathValue("network"), r.PathValue("ip")
		if err := CheckNetworkRef(network); err != nil {
			return nil, err
		}
		if err := checkAddress(ip); err != nil {
			return nil, err
		}
		return nil, svc.Unhold(r.Context(), network, ip)
	}))
	mux.HandleFunc("POST /v1/describe", h.serve(withBody(svc.Describe)))
	mux.HandleFunc("POST /v1/publish", h.serve(withBody(func(ctx context.Context, req publishRequest) (Endpoint, error) {
		return svc.Publish(ctx, req.ID, req.Ports)
	})))
	mux.HandleFunc("POST /v1/routes", h.serve(withBody(func(ctx context.Context, req routesRequest) (Endpoint, error) {
		return svc.SetRoutes(ctx, req.ID, req.Routes)
	})))
	mux.HandleFunc("POST /v1/endpoints", h.serve(withBody(svc.Reserve)))
	mux.HandleFunc("POST /v1/attach", h.serve(withBody(svc.Attach)))
	mux.HandleFunc("GET /v1/endpoints/{id}", h.serve(withID(checkEndpointRef, svc.Endpoint)))
	mux.HandleFunc("POST /v1/endpoints/{id}/detach", h.serve(withID(CheckEndpointID, nothing(svc.Detach))))
	mux.HandleFunc("DELETE /v1/endpoints/{id}", h.serve(withID(CheckEndpointID, nothing(svc.Release))))
	mux.HandleFunc("/", h.serve(func(r *http.Request) (any, error) {
		return nil, Errorf(CodeNotFound, "%s %s is not part of this API", r.Method, shown(r.URL.Path))
	}))
	return mux
}

type handler struct{ logger *slog.Logger }

// serve runs one call and writes its result. A nil result becomes status 204.
func (h *handler) serve(call func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		answer, err := call(r)
		if err != nil {
			h.fail(w, r, err)
			return
		}
		if answer == nil {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		writeJSON(w, http.StatusOK, answer)
	}
}

func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	code := CodeOf(err)
	if code == CodeInternal || code == CodeUnavailable {
		h.logger.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err, "cause", cause(err))
	}
	var body errorBody
	body.Error.Code = code
	body.Error.Message = oneLine(err.Error())
	body.Error.Cause = cause(err)
	writeJSON(w, code.HTTPStatus(), body)
}

// cause returns the first wrapped error whose text differs from that of err, or "".
func cause(err error) string {
	for e := errors.Unwrap(err); e != nil; e = errors.Unwrap(e) {
		if text := oneLine(e.Error()); text != oneLine(err.Error()) {
			return text
		}
	}
	return ""
}

// oneLine joins the lines of s with "; ", because a message is one sentence.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// Encode fails only if the caller has gone, so there is no one to report to.
	_ = json.NewEncoder(w).Encode(v)
}

// withBody decodes the request body, rejecting unknown fields, and calls f with it.
func withBody[Req, Resp any](f func(context.Context, Req) (Resp, error)) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		var req Req
		dec := json.NewDecoder(r.Body)
		dec.DisallowUnknownFields()
		if err := dec.Decode(&req); err != nil {
			if large, ok := errors.AsType[*http.MaxBytesError](err); ok {
				return nil, Errorf(CodeInvalid, "request body is larger than %d bytes", large.Limit)
			}
			return nil, Errorf(CodeInvalid, "request body is not what %s takes: %w", r.URL.Path, err)
		}
		if _, err := dec.Token(); !errors.Is(err, io.EOF) {
			return nil, Errorf(CodeInvalid, "request body goes on after its JSON value")
		}
		return f(r.Context(), req)
	}
}

// withID checks the id in the path and calls f with it.
func withID[Resp any](check func(string) error, f func(context.Context, string) (Resp, error)) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		id := r.PathValue("id")
		if err := check(id); err != nil {
			return nil, err
		}
		answer, err := f(r.Context(), id)
		if err != nil {
			return nil, err
		}
		return answer, nil
	}
}

// nothing adapts a call without a result to one that returns nil.
func nothing(f func(context.Context, string) error) func(context.Context, string) (any, error) {
	return func(ctx context.Context, id string) (any, error) { return nil, f(ctx, id) }
}
