package api

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"syscall"
)

// Caller identifies the process at the other end of a unix socket, as the kernel reports
// it (SO_PEERCRED in unix(7)).
type Caller struct {
	UID uint32
	PID int32
}

// nobodyKnown stands for a caller that the kernel did not identify. Its UID belongs to no
// user.
var nobodyKnown = Caller{UID: ^uint32(0)}

type callerKey struct{}

// WithCaller returns a context that carries the caller of a request.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerOf returns the caller of a request. It returns false for a request from this
// process or over TCP.
func CallerOf(ctx context.Context) (Caller, bool) {
	c, ok := ctx.Value(callerKey{}).(Caller)
	return c, ok
}

// KnowCaller is the ConnContext of an http.Server. It adds the Caller to the context of
// each unix socket connection.
func KnowCaller(ctx context.Context, conn net.Conn) context.Context {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return ctx
	}
	caller := nobodyKnown
	if raw, err := uc.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { // fails only if the connection is closed
			if cred, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); err == nil {
				caller = Caller{UID: cred.Uid, PID: cred.Pid}
			}
		})
	}
	return WithCaller(ctx, caller)
}

// maxLogged bounds how much of a path appears in the log, in bytes.
const maxLogged = 200

// Recorded logs the caller and the status of each request that changes something or reads
// the token. It does not log requests without a known Caller.
func Recorded(next http.Handler, logger *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reads := r.Method == http.MethodGet || r.Method == http.MethodHead
		caller, known := CallerOf(r.Context())
		if reads && r.URL.Path != tokenPath || !known {
			next.ServeHTTP(w, r)
			return
		}
		answer := &answered{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(answer, r)
		path := r.URL.Path
		if len(path) > maxLogged {
			path = path[:maxLogged] + "..."
		}
		logger.Info("called", "method", r.Method, "path", path, "uid", caller.UID, "pid", caller.PID, "status", answer.status)
	})
}

// answered records the status of a response.
type answered struct {
	http.ResponseWriter
	status int
}

func (a *answered) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

// Unwrap supports http.ResponseController.
func (a *answered) Unwrap() http.ResponseWriter { return a.ResponseWriter }
