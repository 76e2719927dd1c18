package state_test

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// fate is what happens to a request on its way to the server.
type fate int

const (
	pass        fate = iota
	cutBefore        // the connection breaks, the server never sees the request
	cutAfter         // the server has answered, and the connection breaks
	failBefore       // the server never sees it, the client gets a 500
	failAfter        // the server has done it, the client gets a 500
	cutHalfway       // half of the answer arrives
	tooManyThen      // the client gets a 429
	hangBefore       // the server never sees the request, the client hears nothing
	hangAfter        // the server has done it, the client hears nothing
)

// cutter is a proxy before a real server that loses requests and answers.
type cutter struct {
	t        testing.TB
	listener net.Listener

	mu      sync.Mutex
	backend string
	next    []fate        // of the next requests that write; then all pass
	always  fate          // of every request, when next is empty
	lost    func() error  // called once after the first request that did not pass
	losing  chan struct{} // closed when lost has returned; nil: nobody waits for that
	conns   map[net.Conn]bool
}

func newCutter(t *testing.T, addr string) *cutter {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{t: t, listener: listener, backend: strings.TrimPrefix(addr, "http://"), conns: make(map[net.Conn]bool)}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			c.keep(conn, true)
			wg.Go(func() {
				defer c.keep(conn, false)
				c.serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		c.cutAll()
		wg.Wait()
	})
	return c
}

func (c *cutter) addr() string { return "http://" + c.listener.Addr().String() }

// plan says what happens to the next requests that write. Between the first that is
// lost and the end of lost no other gets through: a client that gave up waiting must
// not see the server as it was before.
func (c *cutter) plan(lost func() error, fates ...fate) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next, c.lost = fates, lost
}

func (c *cutter) set(backend string, always fate) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.backend, c.always = strings.TrimPrefix(backend, "http://"), always
}

func (c *cutter) keep(conn net.Conn, open bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if open {
		c.conns[conn] = true
		return
	}
	delete(c.conns, conn)
	conn.Close()
}

func (c *cutter) cutAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.conns {
		conn.Close()
	}
}

// serve carries one connection, request by request.
func (c *cutter) serve(conn net.Conn) {
	c.mu.Lock()
	backend := c.backend
	c.mu.Unlock()
	server, err := net.Dial("tcp", backend)
	if err != nil {
		return
	}
	c.keep(server, true)
	defer c.keep(server, false)
	in, out := bufio.NewReader(conn), bufio.NewReader(server)
	for c.carry(conn, server, in, out) {
	}
}

// carry takes one request to its fate, and says whether the connection goes on.
func (c *cutter) carry(conn, server net.Conn, in, out *bufio.Reader) bool {
	req, err := http.ReadRequest(in)
	if err != nil {
		return false
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return false
	}
	req.Body = io.NopCloser(bytes.NewReader(body))
	f, lost, over := c.fateOf(req, body)
	defer over()
	if f == hangBefore {
		_, _ = in.Peek(1) // until the client gives up
		return false
	}
	if f == cutBefore || f == failBefore || f == tooManyThen {
		lost()
		if f == cutBefore {
			return false
		}
		status := map[fate]string{failBefore: "500 Internal Server Error", tooManyThen: "429 Too Many Requests"}[f]
		_, _ = io.WriteString(conn, "HTTP/1.1 "+status+"\r\nContent-Length: 3\r\n\r\nno!")
		return true
	}
	if err := req.Write(server); err != nil {
		return false
	}
	resp, err := http.ReadResponse(out, req)
	if err != nil {
		return false
	}
	var answer bytes.Buffer
	if err := resp.Write(&answer); err != nil {
		return false
	}
	switch f {
	case cutAfter:
		lost()
		return false
	case hangAfter:
		_, _ = in.Peek(1)
		return false
	case cutHalfway:
		_, _ = conn.Write(answer.Bytes()[:answer.Len()-5])
		lost()
		return false
	case failAfter:
		lost()
		_, _ = io.WriteString(conn, "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 9\r\n\r\nrpc error")
		return true
	}
	_, err = conn.Write(answer.Bytes())
	return err == nil
}

// fateOf gives a request's fate when its turn has come, what to call when it is
// lost, and what to call when all that is over.
func (c *cutter) fateOf(req *http.Request, body []byte) (f fate, lost, over func()) {
	nothing := func() {}
	writes := req.Method == http.MethodPut && !bytes.Contains(body, []byte(`"get-or-empty"`))
	c.mu.Lock()
	for c.losing != nil {
		losing := c.losing
		c.mu.Unlock()
		<-losing
		c.mu.Lock()
	}
	defer c.mu.Unlock()
	if !writes || len(c.next) == 0 {
		return c.always, nothing, nothing
	}
	f = c.next[0]
	c.next = c.next[1:]
	if c.lost == nil || f == pass {
		return f, nothing, nothing
	}
	call, losing := c.lost, make(chan struct{})
	c.lost, c.losing = nil, losing
	lost = func() {
		if err := call(); err != nil {
			c.t.Errorf("after the loss: %v", err)
		}
	}
	return f, lost, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.losing = nil
		close(losing)
	}
}
