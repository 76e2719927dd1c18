package powerstrip

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// front is a proxy that listens, before a dockerd that is handler.
type front struct {
	*httptest.Server
	proxy *Proxy
}

func newFront(t *testing.T, handler http.HandlerFunc) front {
	t.Helper()
	return newFrontOf(t, newAdapter(someNetworks()), handler)
}

func newFrontOf(t *testing.T, adapter *Adapter, handler http.HandlerFunc) front {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "docker.sock")
	l := must[net.Listener](t)(net.Listen("unix", socket))
	back := &http.Server{Handler: handler}
	go func() { _ = back.Serve(l) }() // it ends by Close
	p := NewProxy(ProxyConfig{Socket: socket, Adapter: adapter, Logger: slog.New(slog.DiscardHandler)})
	f := front{httptest.NewServer(p), p}
	t.Cleanup(func() {
		gone, cancel := context.WithCancel(context.Background())
		cancel()
		p.Shutdown(gone)
		f.Close()
		_ = back.Close()
	})
	return f
}

// dial opens a connection that fails the test when it takes too long.
func (f front) dial(t *testing.T) *net.TCPConn {
	t.Helper()
	conn := must[net.Conn](t)(net.Dial("tcp", f.Listener.Addr().String()))
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

func (f front) post(t *testing.T, path, body string) (int, string) {
	t.Helper()
	resp := must[*http.Response](t)(http.Post(f.URL+path, "application/json", strings.NewReader(body)))
	defer resp.Body.Close()
	return resp.StatusCode, string(must[[]byte](t)(io.ReadAll(resp.Body)))
}

// hijacked answers as dockerd does to attach and exec: head, then a raw stream
// that repeats all of its input when that has ended.
func hijacked(head string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, head+"\r\n\r\nhello ")
		in, _ := io.ReadAll(buf)
		fmt.Fprintf(conn, "got %d: %.20s", len(in), in)
	}
}

// The end of stdin reaches the container, and its output comes after that.
func TestStreamsCloseHalf(t *testing.T) {
	const upgraded = "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp"
	const raw = "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream"
	big := strings.Repeat("0123456789abcdef", 1<<18)
	for _, tt := range []struct{ name, head, request, stdin string }{
		{"exec, upgraded", upgraded, "POST /v1.41/exec/x/start HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}", "in"},
		{"attach, upgraded", upgraded, "POST /containers/x/attach?stream=1 HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", big},
		{"exec, the old way", raw, "POST /exec/x/start HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}", "in"},
		{"attach, the old way", raw, "POST /v1.16/containers/x/attach?stdin=1 HTTP/1.1\r\nHost: d\r\nContent-Type: text/plain\r\n\r\n", big},
		{"websocket", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket", "GET /containers/x/attach/ws HTTP/1.1\r\nHost: d\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n", "frames"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFront(t, hijacked(tt.head))
			conn := f.dial(t)
			// What is sent ahead of the answer must not be lost.
			go func() {
				_, _ = io.WriteString(conn, tt.request+tt.stdin)
				_ = conn.CloseWrite()
			}()
			br := bufio.NewReader(conn)
			resp := must[*http.Response](t)(http.ReadResponse(br, nil))
			if !strings.HasPrefix(tt.head, "HTTP/1.1 "+resp.Status) || tt.head != raw && resp.Header.Get("Upgrade") == "" {
				t.Errorf("head is %s %v", resp.Status, resp.Header)
			}
			got := must[[]byte](t)(io.ReadAll(br))
			if want := fmt.Sprintf("hello got %d: %.20s", len(tt.stdin), tt.stdin); string(got) != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// A connection on which no stream came about goes on as HTTP: what creates a
// container on it meets the hook.
func TestRefusedStreamStaysHTTP(t *testing.T) {
	f := newFront(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/attach") {
			http.Error(w, `{"message":"No such container"}`, http.StatusNotFound)
			return
		}
		_, _ = io.Copy(w, r.Body)
	})
	conn := f.dial(t)
	body := `{"Env":["SP_NETWORK=web"]}`
	_, _ = fmt.Fprintf(conn, "POST /containers/x/attach HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"+
		"POST /containers/create HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	br := bufio.NewReader(conn)
	for _, want := range []string{"No such container", `"NetworkMode":"web"`} {
		resp := must[*http.Response](t)(http.ReadResponse(br, nil))
		got := must[[]byte](t)(io.ReadAll(resp.Body))
		if !strings.Contains(string(got), want) {
			t.Errorf("%s: got %q, want %q", resp.Status, got, want)
		}
	}
}

func TestProxyCreate(t *testing.T) {
	var reached atomic.Int32
	f := newFront(t, func(w http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		data, _ := io.ReadAll(r.Body)
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, "%s %d %s", r.URL, r.ContentLength, data)
	})
	want := `{"Env":["SP_NETWORK=web"],"HostConfig":{"NetworkMode":"web"}}`
	status, got := f.post(t, "/v1.41/containers/create?name=a;b&x=%zz", `{"Env":["SP_NETWORK=web"]}`)
	if status != http.StatusCreated || got != fmt.Sprintf("/v1.41/containers/create?name=a;b&x=%%zz %d %s", len(want), want) {
		t.Errorf("got %d %s", status, got)
	}
	if status, got = f.post(t, "/containers/%63reate", `{"Env":["SP_NETWORK=web"]}`); !strings.HasSuffix(got, want) {
		t.Errorf("an escaped path: %d %s", status, got)
	}
	reached.Store(0)
	for body, status := range map[string]int{
		`{"Env":["SP_NETWORK=nope"]}`: 400, `{"Env":["SOCKETPLANE_CIDR=10.6.1.0/24"]}`: 409, "{": 400, `{"A":"` + strings.Repeat("a", MaxCreate) + `"}`: 413,
	} {
		got, text := f.post(t, "/containers/create", body)
		var answer struct{ Message string }
		if err := json.Unmarshal([]byte(text), &answer); err != nil || got != status || !strings.HasPrefix(answer.Message, "socketplane: ") {
			t.Errorf("%.40s: %d %.200s", body, got, text)
		}
	}
	if n := reached.Load(); n != 0 {
		t.Errorf("%d of them reached dockerd", n)
	}
}

// Who announces a body and does not send it is not waited for.
func TestSlowSender(t *testing.T) {
	adapter := newAdapter(someNetworks())
	adapter.cfg.BodyTimeout = 200 * time.Millisecond
	f := newFrontOf(t, adapter, func(http.ResponseWriter, *http.Request) {})
	conn := f.dial(t)
	_, _ = io.WriteString(conn, "POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Length: 100\r\n\r\n{")
	resp := must[*http.Response](t)(http.ReadResponse(bufio.NewReader(conn), nil))
	if resp.StatusCode != http.StatusRequestTimeout {
		t.Errorf("got %s", resp.Status)
	}
}

// zeros is a body of n bytes that says how much is in use half-way.
type zeros struct {
	left, half int64
	inUse      uint64
}

func (z *zeros) Read(b []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(b)), z.left)
	z.left -= n
	if z.left <= z.half && z.inUse == 0 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		z.inUse = m.HeapInuse
	}
	return int(n), nil
}

// A body of 1 GiB costs no memory, in both directions.
func TestLargeBodies(t *testing.T) {
	const size = 1 << 30
	f := newFront(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		w.Header().Set("Got", fmt.Sprint(n))
		_, _ = io.CopyN(w, &zeros{left: size}, size)
	})
	body := &zeros{left: size, half: size / 2}
	resp := must[*http.Response](t)(http.Post(f.URL+"/build", "application/x-tar", io.NopCloser(body)))
	defer resp.Body.Close()
	if got := resp.Header.Get("Got"); got != fmt.Sprint(size) {
		t.Errorf("dockerd got %s bytes", got)
	}
	if body.inUse > 64<<20 {
		t.Errorf("%d MiB are in use half-way", body.inUse>>20)
	}
	n := must[int64](t)(io.Copy(io.Discard, resp.Body))
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if n != size || m.HeapInuse > 64<<20 {
		t.Errorf("%d bytes came back, %d MiB are in use", n, m.HeapInuse>>20)
	}
}

// Each piece of an answer is there when dockerd has sent it.
func TestFlushesAtOnce(t *testing.T) {
	next := make(chan struct{})
	f := newFront(t, func(w http.ResponseWriter, r *http.Request) {
		for i := range 3 {
			fmt.Fprintf(w, "line %d\n", i)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-next:
			case <-r.Context().Done():
				return
			}
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req := must[*http.Request](t)(http.NewRequestWithContext(ctx, http.MethodGet, f.URL+"/containers/x/logs?follow=1", nil))
	resp := must[*http.Response](t)(http.DefaultClient.Do(req))
	defer resp.Body.Close()
	br := bufio.NewReader(resp.Body)
	for i := range 3 {
		if line := must[string](t)(br.ReadString('\n')); line != fmt.Sprintf("line %d\n", i) {
			t.Errorf("got %q", line)
		}
		next <- struct{}{}
	}
}

// dockerd hears of a client that goes away.
func TestClientGoes(t *testing.T) {
	gone := make(chan error, 1)
	f := newFront(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
			gone <- nil
		case <-time.After(10 * time.Second):
			gone <- errors.New("it does not")
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	req := must[*http.Request](t)(http.NewRequestWithContext(ctx, http.MethodGet, f.URL+"/events", nil))
	resp := must[*http.Response](t)(http.DefaultClient.Do(req))
	cancel()
	_ = resp.Body.Close()
	if err := <-gone; err != nil {
		t.Error(err)
	}
}

func TestNoDocker(t *testing.T) {
	p := NewProxy(ProxyConfig{Socket: filepath.Join(t.TempDir(), "none"), Adapter: newAdapter(someNetworks()), Logger: slog.New(slog.DiscardHandler)})
	for _, path := range []string{"/version", "/exec/x/start", "/containers/create"} {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, bytes.NewReader([]byte("{}"))))
		if w.Code != http.StatusBadGateway || !strings.Contains(w.Body.String(), "is it running?") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	w := httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/ping", nil))
	if w.Body.String() != "pong" {
		t.Errorf("ping: %s", w.Body)
	}
}

// Streams end with the proxy, and none begins.
func TestShutdownEndsStreams(t *testing.T) {
	f := newFront(t, hijacked("HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp"))
	conn := f.dial(t)
	_, _ = io.WriteString(conn, "POST /exec/x/start HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n")
	br := bufio.NewReader(conn)
	must[*http.Response](t)(http.ReadResponse(br, nil))
	if _, err := io.ReadFull(br, make([]byte, len("hello "))); err != nil {
		t.Fatal("there is no stream: ", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	down := make(chan struct{})
	go func() { defer close(down); f.proxy.Shutdown(ctx) }()
	// Neither end closes it, so it goes on until conn's deadline unless the proxy
	// ends it. How it ends is not said: with unread bytes, by a reset.
	if _, err := io.ReadAll(br); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("the stream goes on")
	}
	<-down
	if status, text := f.post(t, "/exec/x/start", "{}"); status != http.StatusServiceUnavailable {
		t.Errorf("got %d %s", status, text)
	}
}
