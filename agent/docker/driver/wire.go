package driver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/docker"
)

const (
	// maxBody bounds a call of dockerd, in bytes: a network's options and a
	// thousand published ports are below it.
	maxBody = 1 << 20
	// callTimeout bounds a call: dockerd holds a lock of the network meanwhile.
	callTimeout = 4500 * time.Millisecond
	// lastWords is how long a call whose time is over may take to say why it
	// failed. Then dockerd is answered all the same.
	lastWords = 300 * time.Millisecond
	// contentType is what dockerd's plugin protocol speaks (docker/cli,
	// docs/extend/plugin_api.md).
	contentType = "application/vnd.docker.plugins.v1.1+json"
)

// anything is a request of which nothing is looked at; it may be empty.
type anything struct{}

// failure carries a sentence to dockerd. The network driver's key is Err, the
// IPAM driver's is Error.
type failure struct {
	Err   string
	Error string
}

// serve decodes a call, runs it, and answers within callTimeout and lastWords.
// dockerd adds fields with its versions: unknown ones are passed over.
func serve[Req, Resp any](d *Driver, call func(context.Context, Req) (Resp, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
		defer cancel()
		method := strings.TrimPrefix(r.URL.Path, "/")
		var req Req
		err := decode(http.MaxBytesReader(w, r.Body, maxBody), &req)
		switch any(req).(type) {
		case anything, leaveRequest: // there is nothing that Docker would do otherwise
			if errors.Is(err, errEmpty) {
				err = nil
			}
		}
		var resp Resp
		if err == nil {
			resp, err = bounded(ctx, d.Logger.With("method", method), func() (Resp, error) { return call(ctx, req) })
		}
		if err != nil {
			d.Logger.Warn("docker's call failed", "method", method, "err", err)
			answer(w, http.StatusInternalServerError, failure{Err: err.Error(), Error: err.Error()})
			return
		}
		answer(w, http.StatusOK, resp)
	})
}

// errLate is what dockerd is told of a call that goes on without it.
var errLate = api.Errorf(api.CodeUnavailable, "%s; what it changed for the container is undone; see: socketplane agent status", docker.LateCall)

// outcome is how a call ended.
type outcome[Resp any] struct {
	resp     Resp
	err      error
	panicked string // with its stack
}

// bounded runs a call, and returns soon after ctx has ended, also when the call
// has not: to take back what it had begun may last longer than dockerd may wait.
// It then ends by itself, having no time left for anything new.
func bounded[Resp any](ctx context.Context, logger *slog.Logger, call func() (Resp, error)) (Resp, error) {
	done := make(chan outcome[Resp], 1)
	go func() {
		var o outcome[Resp]
		defer func() {
			if p := recover(); p != nil { // the server expects it in its own goroutine
				o.panicked = fmt.Sprintf("%v\n\n%s", p, debug.Stack())
			}
			done <- o
		}()
		o.resp, o.err = call()
	}()
	select {
	case o := <-done:
		return o.result()
	case <-ctx.Done():
	}
	late := time.NewTimer(lastWords)
	defer late.Stop()
	select {
	case o := <-done:
		return o.result()
	case <-late.C:
	}
	go func() {
		o := <-done
		logger.Warn("a call that docker was answered without has ended", "err", o.err, "panic", o.panicked)
	}()
	var none Resp
	return none, errLate
}

func (o outcome[Resp]) result() (Resp, error) {
	if o.panicked != "" {
		panic(o.panicked)
	}
	return o.resp, o.err
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // dockerd has gone if this fails
}

// errEmpty: dockerd makes a call again whose connection broke while it was under
// way, and then sends nothing with it (docker 20.10, pkg/plugins/client.go: the
// body has been read). What was asked for is not known any more.
var errEmpty = api.Errorf(api.CodeUnavailable, "%s; try again", docker.LostCall)

// decode reads one JSON value; it fails with errEmpty where there is none.
func decode(r io.Reader, into any) error {
	data, err := io.ReadAll(r)
	if err != nil {
		if large, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return api.Errorf(api.CodeInvalid, "the request is larger than %d bytes", large.Limit)
		}
		return api.Errorf(api.CodeInvalid, "the request cannot be read: %w", err)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return errEmpty
	}
	if err := json.Unmarshal(data, into); err != nil {
		return api.Errorf(api.CodeInvalid, "the request is not what the call takes: %w", err)
	}
	return nil
}

// empty is the answer of a call that has nothing to say.
type empty struct{}

func nothing[Req any](context.Context, Req) (empty, error) { return empty{}, nil }

type activation struct{ Implements []string }

func activate(context.Context, anything) (activation, error) {
	return activation{Implements: []string{"NetworkDriver", "IpamDriver"}}, nil
}

type networkScope struct {
	Scope, ConnectivityScope string
	GwAllocChecker           bool // Docker 28 and newer ask GwAllocCheck
}

// networkCapabilities: each dockerd keeps its networks itself (a global scope
// would want a Swarm), and they reach beyond the host.
func networkCapabilities(context.Context, anything) (networkScope, error) {
	return networkScope{Scope: "local", ConnectivityScope: "global", GwAllocChecker: true}, nil
}

type ipamNeeds struct{ RequiresMACAddress, RequiresRequestReplay bool }

// ipamCapabilities: what dockerd asked for once need not be told again after its
// restart, the store remembers.
func ipamCapabilities(context.Context, anything) (ipamNeeds, error) { return ipamNeeds{}, nil }

type spaces struct{ LocalDefaultAddressSpace, GlobalDefaultAddressSpace string }

// addressSpace is where the addresses of our networks are from; by it a network
// is known whose addresses are somebody else's.
const addressSpace = "socketplane"

func addressSpaces(context.Context, anything) (spaces, error) {
	return spaces{LocalDefaultAddressSpace: addressSpace, GlobalDefaultAddressSpace: addressSpace}, nil
}
