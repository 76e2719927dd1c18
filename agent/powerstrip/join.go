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

// lingerTime is how long a client may keep a stream that dockerd has ended. By
// then dockerd takes nothing any more, it only waits for the client to close.
const lingerTime = 10 * time.Second

// end is one of the two connections of a stream.
type end struct {
	conn  net.Conn
	ahead *bufio.Reader // what was read with the head is in its buffer
}

// join copies both ways. The end of one direction is told to its receiver and
// leaves the other; it is over when both have ended, or one has failed.
func join(front, back end) {
	var wg sync.WaitGroup
	wg.Go(func() {
		if pass(back, front) != nil { // the other direction has nobody to speak to
			_ = front.conn.Close()
			_ = back.conn.Close()
		}
	})
	wg.Go(func() {
		if pass(front, back) != nil {
			_ = front.conn.Close()
			_ = back.conn.Close()
		}
		_ = front.conn.SetReadDeadline(time.Now().Add(lingerTime)) // closed already: so much the better
	})
	wg.Wait()
}

// pass copies one direction until it ends, and tells the receiver.
func pass(to, from end) error {
	if _, err := io.CopyN(to.conn, from.ahead, int64(from.ahead.Buffered())); err != nil {
		return err
	}
	// From the connection itself: the kernel then copies (splice(2)).
	if _, err := io.Copy(to.conn, from.conn); err != nil {
		return err
	}
	half, ok := to.conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.New("this kind of connection cannot be closed half")
	}
	return half.CloseWrite()
}

// errEnding refuses a stream that begins while the proxy ends.
var errEnding = errors.New("the proxy is ending; try again")

// streams are those under way: an http.Server forgets what was hijacked.
type streams struct {
	mu    sync.Mutex
	wg    sync.WaitGroup
	ended bool
	next  int
	stop  map[int]context.CancelFunc
}

// begin adds a stream. Its context ends when all have to.
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

// Shutdown waits until the streams under way have ended, and ends them when ctx
// does. New ones are refused.
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
