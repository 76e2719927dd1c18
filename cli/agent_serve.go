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
	// shutdownTimeout bounds how long requests under way may go on at the end.
	shutdownTimeout = 5 * time.Second
	// lull is how long a socket without a name must be quiet to count as empty:
	// who had found it has connected by then.
	lull = 20 * time.Millisecond
	// unsaid is how long a connection may be silent at the end.
	unsaid = time.Second
)

// apiServer serves what others on this host call, none of whom may keep it waiting.
func apiServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: time.Minute,
	}
}

// pluginServer serves dockerd, with a connection for each call. One that stays open
// is closed some time, after a while or at the agent's end, and dockerd may be
// sending just then: it makes the call again without its content (see docker.LostCall).
func pluginServer(h http.Handler) *http.Server {
	server := apiServer(h)
	server.SetKeepAlivesEnabled(false)
	return server
}

// serve answers on l until ctx ends, then lets requests under way finish, for a
// while: one may wait for a store that is away. Whoever has connected by then is answered: a closed socket resets what waits in its
// queue, and dockerd does not make such a call again with its content.
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

// callWatch waits for the calls that connections have come to make. A server that
// is being shut down drops a request that it has not read yet.
type callWatch struct {
	mu     sync.Mutex
	silent map[net.Conn]bool // connections that have made none
	quiet  chan struct{}     // closed once there are none; nil: nobody waits
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

// spoke says that a connection has made its call, or will make none.
func (w *callWatch) spoke(c net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.silent, c)
	if w.quiet != nil && len(w.silent) == 0 {
		close(w.quiet)
		w.quiet = nil
	}
}

// await waits until every connection has made a call, once no more come.
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

// emptied is a socket that is taken off its path first, and closed when nobody
// waits in its queue any more.
type emptied struct {
	*net.UnixListener
	mu   sync.Mutex
	last chan struct{} // closed when the queue is empty; nil before the end
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
			_ = e.SetDeadline(time.Now().Add(lull)) // there was one, there may be another
			e.mu.Unlock()
			return conn, nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			e.mu.Unlock()
			return nil, err
		}
		if e.waiting() { // we were late ourselves
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

// empty takes the socket off its path and waits until its queue is empty.
func (e *emptied) empty(ctx context.Context) {
	e.SetUnlinkOnClose(false) // another agent's socket may be there by then
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

// waiting says whether somebody waits in the queue.
func (e *emptied) waiting() (yes bool) {
	raw, err := e.SyscallConn()
	if err != nil {
		return false
	}
	_ = raw.Control(func(fd uintptr) { // it fails only once the socket is closed
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		yes = err == nil && n > 0
	})
	return yes
}
