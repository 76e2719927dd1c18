package state

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	// maxAnswer limits the response body, and so the memory that a server can make this
	// process use.
	maxAnswer = 256 << 20
	// maxReason limits the text of a refusal.
	maxReason = 1 << 10
	maxToken  = 4 << 10
)

// transport sends Consul's HTTP requests. It sets the token, removes the settings that
// the client library read from the environment, and converts refusals and broken
// connections to errors that show whether the request may have reached the server.
type transport struct {
	base      *http.Transport
	scheme    string
	host      string
	path      string // path prefix of a reverse proxy, before /v1
	token     string
	tokenFile string
}

func newTransport(cfg ConsulConfig) (*transport, error) {
	u, err := url.Parse(cfg.Address)
	if err != nil {
		return nil, errors.New("the address is no URL: it must begin with http://, https:// or unix://")
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("the address must be a scheme, a host and a port; the token has a setting of its own")
	}
	if cfg.Token != "" && cfg.TokenFile != "" {
		return nil, errors.New("the token and the token file are both set")
	}
	dialer := &net.Dialer{
		Timeout: 3 * time.Second,
		// A blocking query detects within 30 s that the server vanished.
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3},
	}
	t := &transport{
		scheme: u.Scheme, host: u.Host, path: strings.TrimSuffix(u.Path, "/"), token: cfg.Token, tokenFile: cfg.TokenFile,
		base: &http.Transport{
			DialContext: dialer.DialContext,
			// Watchers of many prefixes and parallel writers reuse their connections.
			MaxIdleConnsPerHost: 64,
			IdleConnTimeout:     90 * time.Second,
			TLSHandshakeTimeout: 5 * time.Second,
			// Every watcher receives every change, so gzip costs Consul more CPU than
			// the saved bytes are worth.
			DisableCompression: true,
		},
	}
	switch u.Scheme {
	case "http", "https":
		if u.Hostname() == "" {
			return nil, errors.New("the address has no host")
		}
	case "unix":
		socket := u.Host + u.Path
		if socket == "" {
			return nil, errors.New("the address has no path of a socket")
		}
		t.scheme, t.host, t.path = "http", "localhost", ""
		t.base.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		}
	default:
		return nil, errors.New("the address must begin with http://, https:// or unix://")
	}
	if t.base.TLSClientConfig, err = cfg.tls(); err != nil {
		return nil, err
	}
	if _, err := t.currentToken(); err != nil {
		return nil, err
	}
	return t, nil
}

func (cfg ConsulConfig) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.CAFile != "" {
		pem, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read the CA's certificate: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read the CA's certificate: %s holds none in PEM", cfg.CAFile)
		}
	}
	if cfg.CertFile != "" || cfg.KeyFile != "" {
		cert, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read the client's certificate and key: %w", err)
		}
		config.Certificates = []tls.Certificate{cert}
	}
	return config, nil
}

// client returns an api.Client that uses t. The library reads unset settings from the
// environment, so client sets a placeholder token, which RoundTrip replaces.
func (t *transport) client() (*api.Client, error) {
	return api.NewClient(&api.Config{
		Address: t.host, Scheme: t.scheme, PathPrefix: t.path, Token: "replaced-by-the-transport",
		HttpClient: &http.Client{
			Transport: t,
			// Following a redirect would send the token to an address other than the
			// configured one.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	})
}

func (t *transport) currentToken() (string, error) {
	if t.tokenFile == "" {
		return t.token, nil
	}
	f, err := os.Open(t.tokenFile)
	if err != nil {
		return "", fmt.Errorf("read the token file: %w", err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxToken+1))
	if err != nil {
		return "", fmt.Errorf("read the token file: %w", err)
	}
	token := strings.TrimSpace(string(content))
	if token == "" || len(content) > maxToken || strings.ContainsAny(token, "\r\n\x00") {
		return "", fmt.Errorf("the token file %s holds no token", t.tokenFile)
	}
	return token, nil
}

// RoundTrip implements http.RoundTripper. It returns refusals as errors, because the
// library drops the status code of a failed transaction.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	token, err := t.currentToken()
	if err != nil {
		return nil, &statusError{code: http.StatusForbidden, body: err.Error()}
	}
	var sent atomic.Bool
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }}
	req = req.Clone(httptrace.WithClientTrace(req.Context(), trace))
	if token == "" {
		req.Header.Del("X-Consul-Token")
	} else {
		req.Header.Set("X-Consul-Token", token)
	}
	query := req.URL.Query()
	query.Del("ns")
	query.Del("partition")
	req.URL.RawQuery = query.Encode()

	resp, err := t.base.RoundTrip(req)
	if err != nil {
		return nil, &brokenError{sent: sent.Load(), err: err}
	}
	switch {
	case resp.StatusCode == http.StatusOK, resp.StatusCode == http.StatusConflict:
	case resp.StatusCode == http.StatusNotFound && resp.Header.Get("X-Consul-Index") != "":
	case resp.StatusCode == http.StatusNotFound && strings.Contains(req.URL.Path, "/v1/session/renew/"):
	default:
		// This includes a 404 from a server that is not Consul, which must not look
		// like an absent key.
		reason, _ := io.ReadAll(io.LimitReader(resp.Body, maxReason)) // a partial reason is better than none
		resp.Body.Close()
		return nil, &statusError{code: resp.StatusCode, body: strings.TrimSpace(string(reason))}
	}
	resp.Body = &boundedBody{ReadCloser: resp.Body, left: maxAnswer}
	return resp, nil
}

// boundedBody returns an error, not io.EOF, after left bytes.
type boundedBody struct {
	io.ReadCloser
	left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, &statusError{code: http.StatusInsufficientStorage, body: fmt.Sprintf("the answer is larger than %d bytes", maxAnswer)}
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	return n, err
}

// withoutSecrets returns an unusable address in a form that is safe to show.
func withoutSecrets(address string) string {
	if u, err := url.Parse(address); err == nil {
		return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
	}
	if i := strings.LastIndexByte(address, '@'); i >= 0 {
		address = address[i+1:]
	}
	return shown(address)
}
