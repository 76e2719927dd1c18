package cli

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/powerstrip"
	"github.com/socketplane/socketplane/agent/unixsocket"
)

// proxyAddress is where the proxy listens: a path, or an address and port.
type proxyAddress struct {
	path string
	addr netip.AddrPort
}

// parseListen parses tcp://ADDRESS:PORT, where localhost means 127.0.0.1, and
// unix:///PATH.
func parseListen(s string) (proxyAddress, error) {
	if path, ok := strings.CutPrefix(s, "unix://"); ok {
		if err := checkSocket(path); err != nil {
			return proxyAddress{}, err
		}
		return proxyAddress{path: path}, nil
	}
	rest, ok := strings.CutPrefix(s, "tcp://")
	rest = strings.TrimSuffix(rest, "/")
	if port, local := strings.CutPrefix(rest, "localhost:"); local {
		rest = "127.0.0.1:" + port
	}
	addr, err := netip.ParseAddrPort(rest)
	if !ok || err != nil {
		return proxyAddress{}, fmt.Errorf("%q is not an address to listen on; write tcp://127.0.0.1:2375 or unix:///run/socketplane/docker.sock", s)
	}
	return proxyAddress{addr: addr}, nil
}

func checkListen(s string) error {
	_, err := parseListen(s)
	return err
}

// loopback reports whether the address is reachable only from this host over TCP.
func (p proxyAddress) loopback() bool { return p.path == "" && p.addr.Addr().Unmap().IsLoopback() }

// checkProxy returns an error if the proxy must not listen as configured. Whoever reaches
// the proxy has the power of root.
func checkProxy(s *Settings) error {
	at, err := parseListen(s.Proxy.Listen)
	if err != nil {
		return err
	}
	given := 0
	for _, f := range []string{s.Proxy.CertFile, s.Proxy.KeyFile, s.Proxy.CAFile} {
		if f != "" {
			given++
		}
	}
	switch {
	case given != 0 && given != 3:
		return errors.New("proxy.cert_file, proxy.key_file and proxy.ca_file (--tlscert, --tlskey, --tlscacert) belong together; set all or none")
	case given != 0 && at.path != "":
		return errors.New("proxy.listen is a unix socket, which has no TLS; leave proxy.cert_file, proxy.key_file and proxy.ca_file out")
	case given == 0 && at.path == "" && !at.loopback():
		return fmt.Errorf("proxy.listen %s is not loopback: whoever reached it would be root on this host; set --tlscert, --tlskey and --tlscacert, or listen on 127.0.0.1", s.Proxy.Listen)
	}
	return nil
}

// listenProxy opens the proxy's socket, with TLS if configured.
func listenProxy(s Settings) (net.Listener, proxyAddress, error) {
	at, err := parseListen(s.Proxy.Listen)
	if err != nil {
		return nil, at, err
	}
	if at.path != "" {
		l, err := listenBesideDocker(at.path, s.Docker.Socket)
		return l, at, err
	}
	var config *tls.Config
	if s.Proxy.CertFile != "" {
		if config, err = proxyTLS(s); err != nil {
			return nil, at, err
		}
	}
	l, err := net.Listen("tcp", at.addr.String())
	if err != nil {
		return nil, at, fmt.Errorf("proxy: %w; choose another address with --listen", err)
	}
	if config != nil {
		l = tls.NewListener(l, config)
	}
	return l, at, nil
}

// listenBesideDocker opens a unix socket for the users of dockerd's socket. It does not
// use the agent's group, because members of that group are not root, but users of the
// proxy are.
func listenBesideDocker(path, socket string) (net.Listener, error) {
	group := unixsocket.KeepGroup // without a dockerd: only for root
	var theirs syscall.Stat_t
	if syscall.Stat(socket, &theirs) == nil {
		group = int(theirs.Gid)
	}
	return openSocket(path, group)
}

// proxyTLS returns a configuration that requires a certificate from every client, like
// dockerd's --tlsverify.
func proxyTLS(s Settings) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(s.Proxy.CertFile, s.Proxy.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("proxy.cert_file and proxy.key_file: %w", err)
	}
	pem, err := os.ReadFile(s.Proxy.CAFile)
	if err != nil {
		return nil, fmt.Errorf("proxy.ca_file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("proxy.ca_file %s holds no certificate", s.Proxy.CAFile)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
	}, nil
}

// guard rejects web pages on addresses that a browser can reach.
func (p proxyAddress) guard(h http.Handler) http.Handler {
	if p.path != "" {
		return h
	}
	return api.NoBrowser(h, p.loopback(), powerstrip.Refuse)
}
