// Package release stands in for the internet that an unattended host installs
// itself from: what `make package` built is served under the real names, by https,
// with a certificate that the hosts of a test trust.
package release

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// Host is where releases are.
const Host = "github.com"

// Server serves the release of one source tree.
type Server struct {
	CA          []byte // PEM: who trusts this certificate finds the release at Host
	certificate tls.Certificate
	dir         string
}

// New builds the release of the module whose directory root is.
func New(root string) (*Server, error) {
	build := exec.Command("scripts/package.sh")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("scripts/package.sh: %w: %s", err, out)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: Host}, DNSNames: []string{Host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &Server{
		CA:          pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		certificate: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		dir:         filepath.Join(root, "bin/release"),
	}, nil
}

// Serve answers on a listener until stop is called.
func (s *Server) Serve(l net.Listener) (stop func() error) {
	server := &http.Server{
		ReadHeaderTimeout: time.Minute,
		Handler:           http.HandlerFunc(s.file),
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{s.certificate}},
	}
	go func() { _ = server.ServeTLS(l, "", "") }() // ends with Close
	return server.Close
}

// file serves the release's files, of whichever version they are asked for.
func (s *Server) file(w http.ResponseWriter, r *http.Request) {
	if !strings.HasPrefix(r.URL.Path, "/socketplane/socketplane/releases/") {
		http.NotFound(w, r)
		return
	}
	http.ServeFile(w, r, filepath.Join(s.dir, path.Base(r.URL.Path)))
}
