package state_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log"
	"net"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/state/consultest"
)

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestConsulAddresses(t *testing.T) {
	t.Parallel()
	u, err := url.Parse(consultest.Start(t))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	front := func() *httptest.Server {
		server := httptest.NewUnstartedServer(httputil.NewSingleHostReverseProxy(u))
		server.Config.ErrorLog = log.New(t.Output(), "", 0) // it complains of what is meant to fail
		return server
	}

	secure := front()
	secure.StartTLS()
	t.Cleanup(secure.Close)
	cert := secure.TLS.Certificates[0]
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	ca, key := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "key.pem")
	writeFile(t, ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})))
	writeFile(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))

	mutual := front()
	mutual.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	mutual.StartTLS()
	t.Cleanup(mutual.Close)

	socket := filepath.Join(dir, "consul.sock")
	local := front()
	local.Listener.Close()
	if local.Listener, err = net.Listen("unix", socket); err != nil {
		t.Fatal(err)
	}
	local.Start()
	t.Cleanup(local.Close)

	for name, c := range map[string]struct {
		cfg  state.ConsulConfig
		want string // in the error; empty: it works
	}{
		"http":                       {state.ConsulConfig{Address: u.String()}, ""},
		"trailing slash":             {state.ConsulConfig{Address: u.String() + "/"}, ""},
		"unix":                       {state.ConsulConfig{Address: "unix://" + socket}, ""},
		"https":                      {state.ConsulConfig{Address: secure.URL, CAFile: ca}, ""},
		"client's certificate":       {state.ConsulConfig{Address: mutual.URL, CAFile: ca, CertFile: ca, KeyFile: key}, ""},
		"https of an unknown CA":     {state.ConsulConfig{Address: secure.URL}, "certificate"},
		"without client certificate": {state.ConsulConfig{Address: mutual.URL, CAFile: ca}, "certificate"},
		"http to https":              {state.ConsulConfig{Address: strings.Replace(secure.URL, "https", "http", 1)}, "400"},
		"https to http":              {state.ConsulConfig{Address: "https://" + u.Host}, "TLS handshake"},
		"a socket that is not there": {state.ConsulConfig{Address: "unix://" + dir + "/none"}, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			s := openConsul(t, c.cfg)
			entries, err := s.List(testContext(t), "a/")
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, %v, want an error with %q", entries, err, c.want)
			}
		})
	}
}

func TestConsulBadSettings(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	writeFile(t, empty, "")
	const ok = "http://127.0.0.1:8500"
	for name, cfg := range map[string]state.ConsulConfig{
		"no address":          {},
		"no scheme":           {Address: "127.0.0.1:8500"},
		"other scheme":        {Address: "ftp://127.0.0.1"},
		"no host":             {Address: "http://"},
		"no socket":           {Address: "unix://"},
		"password":            {Address: "http://user:hunter2@127.0.0.1:8500"},
		"bad with password":   {Address: "http://user:hunter2@127.0.0.1:port"},
		"query":               {Address: ok + "/?token=hunter2"},
		"token twice":         {Address: ok, Token: "hunter2", TokenFile: empty},
		"no token in file":    {Address: ok, TokenFile: empty},
		"no token file":       {Address: ok, TokenFile: dir + "/none"},
		"no CA":               {Address: ok, CAFile: dir + "/none"},
		"no PEM":              {Address: ok, CAFile: empty},
		"certificate, no key": {Address: ok, CertFile: empty},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := state.OpenConsul(cfg)
			if err == nil {
				t.Fatalf("opened %v", s)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error tells a secret: %v", err)
			}
		})
	}
}
