package api

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"syscall"
)

// Caller is the process at the other end of a unix socket, as the kernel says
// (SO_PEERCRED in unix(7)).
type Caller struct {
	UID uint32
	PID int32
}

// nobodyKnown stands for a caller of whom the kernel did not tell: it is nobody's.
var nobodyKnown = Caller{UID: ^uint32(0)}

type callerKey struct{}

// WithCaller has a call carry who makes it.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerOf says who makes a call; false: it is made in this process, or over TCP.
func CallerOf(ctx context.Context) (Caller, bool) {
	c, ok := ctx.Value(callerKey{}).(Caller)
	return c, ok
}

// KnowCaller is an http.Server's ConnContext: calls that come by a unix socket carry
// who makes them.
func KnowCaller(ctx context.Context, conn net.Conn) context.Context {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return ctx
	}
	caller := nobodyKnown
	if raw, err := uc.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { // it fails only once the connection is closed
			if cred, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); err == nil {
				caller = Caller{UID: cred.Uid, PID: cred.Pid}
			}
		})
	}
	return WithCaller(ctx, caller)
}

// maxLogged bounds what a log shows of a path, in bytes.
const maxLogged = 200

// Recorded has the log say who has called what: each call that changes something, and
// each that reads the token.
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

// answered remembers the status of an answer.
type answered struct {
	http.ResponseWriter
	status int
}

func (a *answered) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (a *answered) Unwrap() http.ResponseWriter { return a.ResponseWriter }
