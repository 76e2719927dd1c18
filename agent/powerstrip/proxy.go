package powerstrip

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"time"
)

// dialTimeout bounds how long dockerd may take to accept a connection.
const dialTimeout = 5 * time.Second

// ProxyConfig is what a proxy works with.
type ProxyConfig struct {
	Socket  string // dockerd's unix socket
	Adapter *Adapter
	Logger  *slog.Logger
}

// Proxy passes Docker's API on to dockerd, and what creates a container through
// the adapter first. Everything else streams: nothing is kept, whatever its size.
type Proxy struct {
	cfg     ProxyConfig
	reverse *httputil.ReverseProxy
	streams streams
}

// NewProxy makes a proxy.
func NewProxy(cfg ProxyConfig) *Proxy {
	p := &Proxy{cfg: cfg}
	p.reverse = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "docker"})
			r.Out.URL.RawQuery = r.In.URL.RawQuery // as it came: dockerd decides what it means
		},
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return p.dial(ctx) },
			// A connection a request: one that dockerd has closed is never taken up again.
			DisableKeepAlives:  true,
			DisableCompression: true,
		},
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug),
		ErrorHandler:  func(w http.ResponseWriter, r *http.Request, err error) { p.fail(w, r, err) },
	}
	return p
}

// ServeHTTP passes one request on.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/v1/ping" && r.Method == http.MethodGet: // Powerstrip's, which dockerd has not
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, "pong")
	case IsCreate(r.Method, r.URL.Path):
		p.create(w, r)
	case wantsStream(r):
		p.stream(w, r)
	default:
		p.reverse.ServeHTTP(w, r)
	}
}

// create runs the hook and passes on what it made of the body.
func (p *Proxy) create(w http.ResponseWriter, r *http.Request) {
	body, err := p.cfg.Adapter.readBody(w, r, MaxCreate)
	if err == nil {
		body, err = p.cfg.Adapter.Create(r.Context(), body)
	}
	if err != nil {
		p.cfg.Logger.Warn("container refused", "err", err)
		writeError(w, err)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.ContentLength = int64(len(body))
	r.Header.Set("Content-Length", strconv.Itoa(len(body)))
	r.TransferEncoding = nil
	// Nothing of a creation is a stream, whatever the client says.
	r.Header.Del("Connection")
	r.Header.Del("Upgrade")
	p.reverse.ServeHTTP(w, r)
}

func (p *Proxy) dial(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.DialContext(ctx, "unix", p.cfg.Socket)
	if err != nil {
		return nil, fmt.Errorf("dockerd cannot be reached on %s; is it running? %w", p.cfg.Socket, err)
	}
	return conn, nil
}

// fail answers a request that did not get through to dockerd.
func (p *Proxy) fail(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // the client has gone; to return would be to answer 200
	}
	p.cfg.Logger.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	Refuse(w, http.StatusBadGateway, err.Error())
}
