package powerstrip

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// lingerTime is how long a client may keep a stream open that dockerd has ended. dockerd
// accepts no more data then and only waits for the client to close.
const lingerTime = 10 * time.Second

// end is one of the two connections of a stream.
type end struct {
	conn  net.Conn
	ahead *bufio.Reader // its buffer contains the data that was read with the head
}

// join copies in both directions. When one direction ends, join closes it at its receiver
// and continues the other. It returns when both directions have ended or one has failed.
func join(front, back end) {
	var wg sync.WaitGroup
	wg.Go(func() {
		if pass(back, front) != nil { // the other direction has no peer any more
			_ = front.conn.Close()
			_ = back.conn.Close()
		}
	})
	wg.Go(func() {
		if pass(front, back) != nil {
			_ = front.conn.Close()
			_ = back.conn.Close()
		}
		_ = front.conn.SetReadDeadline(time.Now().Add(lingerTime)) // fails if closed already, which is fine
	})
	wg.Wait()
}

// pass copies one direction until it ends, and then closes the write side of the receiver.
func pass(to, from end) error {
	if _, err := io.CopyN(to.conn, from.ahead, int64(from.ahead.Buffered())); err != nil {
		return err
	}
	// From the connection itself, so that the kernel copies (splice(2)).
	if _, err := io.Copy(to.conn, from.conn); err != nil {
		return err
	}
	half, ok := to.conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.New("this kind of connection cannot be closed half")
	}
	return half.CloseWrite()
}

// errEnding rejects a stream that starts while the proxy shuts down.
var errEnding = errors.New("the proxy is ending; try again")

// streams tracks the active streams, because http.Server does not track hijacked
// connections.
type streams struct {
	mu    sync.Mutex
	wg    sync.WaitGroup
	ended bool
	next  int
	stop  map[int]context.CancelFunc
}

// begin adds a stream. It returns a context that ends when the stream must end, and a
// function to call when the stream has ended.
func (s *streams) begin(ctx context.Context) (context.Context, func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil, nil, errEnding
	}
	ctx, cancel := context.WithCancel(ctx)
	if s.stop == nil {
		s.stop = map[int]context.CancelFunc{}
	}
	id := s.next
	s.next++
	s.stop[id] = cancel
	s.wg.Add(1)
	return ctx, func() {
		cancel()
		s.mu.Lock()
		delete(s.stop, id)
		s.mu.Unlock()
		s.wg.Done()
	}, nil
}

// Shutdown waits until the active streams have ended, and ends them when ctx ends. It
// rejects new streams.
func (p *Proxy) Shutdown(ctx context.Context) {
	s := &p.streams
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	cut := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, stop := range s.stop {
			stop()
		}
	})
	s.wg.Wait()
	cut()
}
