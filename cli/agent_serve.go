package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/socketplane/socketplane/agent/api"
)

const (
	// shutdownTimeout bounds how long active requests may continue after shutdown has
	// started.
	shutdownTimeout = 5 * time.Second
	// lull is how long a socket without a path must be idle before its queue counts as
	// empty. A client that has already found the socket connects within this time.
	lull = 20 * time.Millisecond
	// unsaid is how long shutdown waits for a connection that has not sent a request.
	unsaid = time.Second
)

// apiServer returns a server for other programs on this host. Its timeouts keep them from
// blocking it.
func apiServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: time.Minute,
	}
}

// pluginServer returns a server for dockerd with one connection per call. A kept-alive
// connection would be closed at some time, when idle or at the end of the agent, and
// dockerd might be sending a call just then. It would repeat that call without its content
// (see docker.LostCall).
func pluginServer(h http.Handler) *http.Server {
	server := apiServer(h)
	server.SetKeepAlivesEnabled(false)
	return server
}

// serve serves l until ctx ends. Then it waits up to shutdownTimeout for active requests,
// because one may wait for a store that is unavailable. On a unix socket it also answers
// every client that has connected by then: closing a socket resets the connections in its
// queue, and dockerd does not repeat such a call with its content.
func serve(ctx context.Context, server *http.Server, l netListener) error {
	quiet := func(context.Context) {}
	if ul, ok := l.(*net.UnixListener); ok {
		e, calls := &emptied{UnixListener: ul}, watchCalls(server)
		l = e
		quiet = func(ctx context.Context) {
			e.empty(ctx)
			calls.await(ctx)
		}
	}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		quiet(end)
		err := server.Shutdown(end)
		if errors.Is(err, context.DeadlineExceeded) {
			err = server.Close()
		}
		stopped <- err
	})
	err := server.Serve(l)
	if stop() || !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	return <-stopped
}

// callWatch waits for the first request of each connection, because http.Server drops
// unread requests at shutdown.
type callWatch struct {
	mu     sync.Mutex
	silent map[net.Conn]bool // connections without a request so far
	quiet  chan struct{}     // closed when silent is empty; nil if no goroutine waits
}

type callConn struct{}

func watchCalls(server *http.Server) *callWatch {
	w := &callWatch{silent: map[net.Conn]bool{}}
	server.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.silent[c] = true
		return context.WithValue(api.KnowCaller(ctx, c), callConn{}, c)
	}
	server.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateClosed || state == http.StateHijacked {
			w.spoke(c)
		}
	}
	handler := server.Handler
	server.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(callConn{}).(net.Conn); ok {
			w.spoke(c)
		}
		handler.ServeHTTP(rw, r)
	})
	return w
}

// spoke records that a connection has sent a request or will send none.
func (w *callWatch) spoke(c net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.silent, c)
	if w.quiet != nil && len(w.silent) == 0 {
		close(w.quiet)
		w.quiet = nil
	}
}

// await waits until every connection has sent a request, for at most unsaid. The caller
// makes sure that no more connections arrive.
func (w *callWatch) await(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, unsaid)
	defer cancel()
	quiet := make(chan struct{})
	w.mu.Lock()
	if len(w.silent) == 0 {
		close(quiet)
	} else {
		w.quiet = quiet
	}
	w.mu.Unlock()
	select {
	case <-quiet:
	case <-ctx.Done():
	}
}

// emptied is a listener that first removes its path and closes only when its queue is
// empty.
type emptied struct {
	*net.UnixListener
	mu   sync.Mutex
	last chan struct{} // closed when the queue is empty; nil before empty is called
}

// Accept implements net.Listener.
func (e *emptied) Accept() (net.Conn, error) {
	for {
		conn, err := e.UnixListener.Accept()
		e.mu.Lock()
		last := e.last
		switch {
		case last == nil:
			e.mu.Unlock()
			return conn, err
		case err == nil:
			_ = e.SetDeadline(time.Now().Add(lull)) // another connection may follow
			e.mu.Unlock()
			return conn, nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			e.mu.Unlock()
			return nil, err
		}
		if e.waiting() { // this process itself was late
			_ = e.SetDeadline(time.Now().Add(lull))
			e.mu.Unlock()
			continue
		}
		_ = e.SetDeadline(time.Time{})
		select {
		case <-last:
		default:
			close(last)
		}
		e.mu.Unlock()
	}
}

// empty removes the socket's path and waits until the queue is empty.
func (e *emptied) empty(ctx context.Context) {
	e.SetUnlinkOnClose(false) // the path may be another agent's socket by then
	_ = os.Remove(e.Addr().String())
	last := make(chan struct{})
	e.mu.Lock()
	e.last = last
	_ = e.SetDeadline(time.Now().Add(lull))
	e.mu.Unlock()
	select {
	case <-last:
	case <-ctx.Done():
	}
}

// waiting reports whether a connection waits in the queue.
func (e *emptied) waiting() (yes bool) {
	raw, err := e.SyscallConn()
	if err != nil {
		return false
	}
	_ = raw.Control(func(fd uintptr) { // fails only if the socket is closed
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		yes = err == nil && n > 0
	})
	return yes
}
