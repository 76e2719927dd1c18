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
	// maxBody bounds a call of dockerd, in bytes. The options of a network and a thousand
	// published ports fit in it.
	maxBody = 1 << 20
	// callTimeout bounds a call, because dockerd holds a lock of the network during it.
	callTimeout = 4500 * time.Millisecond
	// lastWords is how long a call may take after its timeout to report why it failed.
	// After that the driver answers dockerd without it.
	lastWords = 300 * time.Millisecond
	// contentType is the content type of dockerd's plugin protocol (docker/cli,
	// docs/extend/plugin_api.md).
	contentType = "application/vnd.docker.plugins.v1.1+json"
)

// anything is a request whose content is ignored. It may be empty.
type anything struct{}

// failure is an error response to dockerd. The network driver uses the key Err, and the
// IPAM driver uses Error.
type failure struct {
	Err   string
	Error string
}

// serve decodes a call, runs it, and answers within callTimeout and lastWords. It ignores
// unknown fields, because new versions of dockerd add some.
func serve[Req, Resp any](d *Driver, call func(context.Context, Req) (Resp, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
		defer cancel()
		method := strings.TrimPrefix(r.URL.Path, "/")
		var req Req
		err := decode(http.MaxBytesReader(w, r.Body, maxBody), &req)
		switch any(req).(type) {
		case anything, leaveRequest: // an empty body does not matter to these
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

// errLate is the error for a call that continues after dockerd has been answered.
var errLate = api.Errorf(api.CodeUnavailable, "%s; what it changed for the container is undone; see: socketplane agent status", docker.LateCall)

// outcome is the result of a call.
type outcome[Resp any] struct {
	resp     Resp
	err      error
	panicked string // value and stack of the panic
}

// bounded runs a call and returns at most lastWords after ctx ends, even if the call has
// not returned. A rollback may take longer than dockerd may wait. The call then ends on
// its own, since ctx leaves it no time for anything new.
func bounded[Resp any](ctx context.Context, logger *slog.Logger, call func() (Resp, error)) (Resp, error) {
	done := make(chan outcome[Resp], 1)
	go func() {
		var o outcome[Resp]
		defer func() {
			if p := recover(); p != nil { // the HTTP server recovers only its own goroutine
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

// errEmpty rejects a call without a body. If the connection breaks during a call, dockerd
// repeats the call but sends no body, because it has been read already (docker 20.10,
// pkg/plugins/client.go). The content of the call is lost.
var errEmpty = api.Errorf(api.CodeUnavailable, "%s; try again", docker.LostCall)

// decode decodes one JSON value. It returns errEmpty if there is none.
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

// empty is the response of a call that returns nothing.
type empty struct{}

func nothing[Req any](context.Context, Req) (empty, error) { return empty{}, nil }

type activation struct{ Implements []string }

func activate(context.Context, anything) (activation, error) {
	return activation{Implements: []string{"NetworkDriver", "IpamDriver"}}, nil
}

type networkScope struct {
	Scope, ConnectivityScope string
	GwAllocChecker           bool // makes Docker 28 and newer call GwAllocCheck
}

// networkCapabilities tells Docker that each dockerd stores its networks itself, since a
// global scope would need a Swarm, and that the networks reach beyond the host.
func networkCapabilities(context.Context, anything) (networkScope, error) {
	return networkScope{Scope: "local", ConnectivityScope: "global", GwAllocChecker: true}, nil
}

type ipamNeeds struct{ RequiresMACAddress, RequiresRequestReplay bool }

// ipamCapabilities tells Docker that it need not repeat its requests after a restart,
// because the store remembers them.
func ipamCapabilities(context.Context, anything) (ipamNeeds, error) { return ipamNeeds{}, nil }

type spaces struct{ LocalDefaultAddressSpace, GlobalDefaultAddressSpace string }

// addressSpace is the address space of our networks. A network with another address space
// gets its addresses from another IPAM driver.
const addressSpace = "socketplane"

func addressSpaces(context.Context, anything) (spaces, error) {
	return spaces{LocalDefaultAddressSpace: addressSpace, GlobalDefaultAddressSpace: addressSpace}, nil
}
