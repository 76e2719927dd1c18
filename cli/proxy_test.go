package cli

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/state/consultest"
)

func TestProxyAddress(t *testing.T) {
	for in, loopback := range map[string]bool{
		"tcp://127.0.0.1:2375": true, "tcp://localhost:2375": true, "tcp://[::1]:2375": true, "tcp://127.9.9.9:1/": true,
		"tcp://0.0.0.0:2375": false, "tcp://192.0.2.1:2375": false, "tcp://[::]:2375": false, "unix:///run/x.sock": false,
	} {
		if at, err := parseListen(in); err != nil || at.loopback() != loopback {
			t.Errorf("%s: %+v, %v", in, at, err)
		}
	}
	for _, in := range []string{
		"", "127.0.0.1:2375", "tcp://", "tcp://:2375", "tcp://127.0.0.1", "tcp://example.com:2375", "tcp://localhost.example.com:1", "tcp://127.0.0.1:99999",
		"unix://", "unix://x", "unix:///" + strings.Repeat("x", 107), "http://127.0.0.1:2375", "tcp://127.0.0.1:2375/v1",
	} {
		if at, err := parseListen(in); err == nil {
			t.Errorf("%q is %+v", in, at)
		}
	}
}

func TestProxyUsage(t *testing.T) {
	for _, tt := range []struct {
		args []string
		says string
	}{
		{[]string{"--listen", "tcp://0.0.0.0:2375"}, "not loopback"},
		{[]string{"--listen", "tcp://192.0.2.1:2375", "--tlscert", "/a"}, "belong together"},
		{[]string{"--listen", "unix:///x", "--tlscert", "/a", "--tlskey", "/b", "--tlscacert", "/c"}, "unix socket"},
		{[]string{"--listen", "2375"}, "tcp://127.0.0.1:2375"},
		{[]string{"--tlscert", "a"}, "(from --tlscert)"},
		{[]string{"x"}, "too many"},
	} {
		code, _, stderr := command(t, "/none", append([]string{"proxy"}, tt.args...)...)
		if code != exitUsage || !strings.Contains(stderr, tt.says) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%v: %d %q", tt.args, code, stderr)
		}
	}
}

// authority makes certificates in a directory of its own.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.make("ca")
	return a
}

// make writes NAME.pem and NAME-key.pem, signed by ca.
func (a *authority) make(name string) (certFile, keyFile string) {
	a.t.Helper()
	check := func(err error) {
		if err != nil {
			a.t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true, IsCA: a.cert == nil,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	if a.cert == nil {
		a.cert, a.key = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	check(err)
	private, err := x509.MarshalECPrivateKey(key)
	check(err)
	certFile, keyFile = filepath.Join(a.dir, name+".pem"), filepath.Join(a.dir, name+"-key.pem")
	check(os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	check(os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}), 0o600))
	return certFile, keyFile
}

// dockerd is a server on a unix socket that answers everything with "docker".
func dockerd(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "d.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "docker") })}
	go func() { _ = server.Serve(l) }() // it ends by Close
	t.Cleanup(func() { _ = server.Close() })
	return path
}

// startTestProxy runs a proxy until the test ends, which it has to do in order.
func startTestProxy(t *testing.T, s Settings) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- runProxy(ctx, s, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func freeAddress(t *testing.T) string {
	t.Helper()
	ports, err := consultest.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", ports[0])
}

// get asks until somebody listens.
func get(t *testing.T, client *http.Client, url string) (string, error) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		resp, err := client.Get(url)
		if err == nil {
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			return string(body), err
		}
		if refused := strings.Contains(err.Error(), "refused") || strings.Contains(err.Error(), "no such file"); !refused || time.Now().After(deadline) {
			return "", err
		}
		<-tick.C
	}
}

// With TLS only who has a certificate of the authority's is let in.
func TestProxyTLS(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	s := defaultSettings("box")
	s.Docker.Socket = dockerd(t)
	at := freeAddress(t)
	s.Proxy.Listen = "tcp://" + at
	s.Proxy.CertFile, s.Proxy.KeyFile = ours.make("server")
	s.Proxy.CAFile = filepath.Join(ours.dir, "ca.pem")
	if err := checkProxy(&s); err != nil {
		t.Fatal(err)
	}
	startTestProxy(t, s)
	pool := x509.NewCertPool()
	pool.AddCert(func() *x509.Certificate {
		data, _ := os.ReadFile(s.Proxy.CAFile)
		block, _ := pem.Decode(data)
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}())
	client := func(a *authority) *http.Client {
		config := &tls.Config{RootCAs: pool}
		if a != nil {
			cert, err := tls.LoadX509KeyPair(a.make("client"))
			if err != nil {
				t.Fatal(err)
			}
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
		}
		return &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
	}
	if got, err := get(t, client(ours), "https://"+at+"/version"); err != nil || got != "docker" {
		t.Errorf("with a certificate: %q, %v", got, err)
	}
	if got, err := get(t, client(nil), "https://"+at+"/version"); err == nil {
		t.Errorf("without one: %q", got)
	}
	if got, err := get(t, client(theirs), "https://"+at+"/version"); err == nil {
		t.Errorf("with a stranger's: %q", got)
	}
	if got, _ := get(t, http.DefaultClient, "http://"+at+"/version"); got == "docker" {
		t.Error("it answers without TLS, too")
	}
}

// On a unix socket the mode and the group are those of dockerd's.
func TestProxySocket(t *testing.T) {
	s := defaultSettings("box")
	s.Docker.Socket = dockerd(t)
	path := filepath.Join(t.TempDir(), "p.sock")
	s.Proxy.Listen = "unix://" + path
	startTestProxy(t, s)
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}}
	if got, err := get(t, client, "http://docker/version"); err != nil || got != "docker" {
		t.Errorf("%q, %v", got, err)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o660 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
}
