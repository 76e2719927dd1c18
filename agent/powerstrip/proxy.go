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

// ProxyConfig configures a Proxy.
type ProxyConfig struct {
	Socket  string // dockerd's unix socket
	Adapter *Adapter
	Logger  *slog.Logger
}

// Proxy forwards Docker's API to dockerd, and passes requests that create a container
// through the adapter first. It streams all other requests without buffering, whatever
// their size.
type Proxy struct {
	cfg     ProxyConfig
	reverse *httputil.ReverseProxy
	streams streams
}

// NewProxy returns a Proxy.
func NewProxy(cfg ProxyConfig) *Proxy {
	p := &Proxy{cfg: cfg}
	p.reverse = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "docker"})
			r.Out.URL.RawQuery = r.In.URL.RawQuery // unchanged: dockerd interprets it
		},
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return p.dial(ctx) },
			// One connection per request, so that no connection is reused that dockerd has
			// closed.
			DisableKeepAlives:  true,
			DisableCompression: true,
		},
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug),
		ErrorHandler:  func(w http.ResponseWriter, r *http.Request, err error) { p.fail(w, r, err) },
	}
	return p
}

// ServeHTTP forwards one request.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/v1/ping" && r.Method == http.MethodGet: // a path of Powerstrip that dockerd does not have
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

// create runs the hook and forwards the changed body.
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
	// A creation is never a stream, whatever the client requests.
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

// fail answers a request that did not reach dockerd.
func (p *Proxy) fail(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // the client has gone; returning would send status 200
	}
	p.cfg.Logger.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	Refuse(w, http.StatusBadGateway, err.Error())
}
