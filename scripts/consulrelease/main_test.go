package main

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/cli/setup"
)

const program = "#!/bin/sh\necho Consul v9.9.9\n"

// archive is a release: a zip with the program, and much else, so that sending it
// takes more than one write.
func archive(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, text := range map[string]string{"consul": program, "LICENSE.txt": "free"} {
		w, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A release is taken only whole and verified. Where none can be had this is known
// soon, and nothing is left behind.
func TestDownload(t *testing.T) {
	data := archive(t)
	sum := sha256.Sum256(data)
	right := hex.EncodeToString(sum[:])
	stop := make(chan struct{})
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/9.9.9/consul.zip":
			_, _ = w.Write(data)
		case "/silent/9.9.9/consul.zip":
			<-stop
		case "/stalls/9.9.9/consul.zip":
			_, _ = w.Write(data[:20])
			_ = http.NewResponseController(w).Flush()
			<-stop
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(stop) })
	transport := func() *http.Transport { return server.Client().Transport.(*http.Transport).Clone() }
	for _, tt := range []struct {
		name, base, sum string
		transport       *http.Transport
		want            string // of the error; "" is success
	}{
		{"right", server.URL, right, transport(), ""},
		{"a slash at the end", server.URL + "/", right, transport(), ""},
		{"another checksum", server.URL, strings.Repeat("0", 64), transport(), "is not what was released"},
		{"not there", server.URL + "/gone", right, transport(), "404"},
		{"nobody listens", "https://127.0.0.1:1", right, transport(), "connection refused"},
		{"it takes connections and says nothing", "https://" + deaf(t), right, transport(), "no answer within 3s"},
		{"it answers no request", server.URL + "/silent", right, transport(), "no answer within 3s"},
		{"it stalls", server.URL + "/stalls", right, transport(), "building is faster"},
		{"no name server answers", "https://releases.example.com", right, nameless(t), "no answer within 3s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			file := filepath.Join(dir, "consul")
			r := setup.Release{Version: "9.9.9", URL: "https://example.com/consul.zip", SHA256: tt.sum}
			// Far more than it takes: what is excluded is the minutes of TCP and DNS.
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			err := download(ctx, tt.transport, r.At(tt.base), file)
			if tt.want == "" {
				text, readErr := os.ReadFile(file)
				if err != nil || readErr != nil || string(text) != program {
					t.Fatalf("%v, %v: %q", err, readErr, text)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want %q", err, tt.want)
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("it leaves %v", left)
			}
		})
	}
}

// deaf gives an address where connections are taken and nothing is said.
func deaf(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

// nameless is a transport whose name server never answers.
func nameless(t *testing.T) *http.Transport {
	t.Helper()
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", server.LocalAddr().String())
	}}
	return &http.Transport{DialContext: (&net.Dialer{Resolver: resolver}).DialContext}
}

// What is downloaded and what is built are the same version.
func TestReleaseIsWhatIsBuilt(t *testing.T) {
	text, err := os.ReadFile("../consul/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if want := "require github.com/hashicorp/consul v" + setup.ConsulRelease().Version + "\n"; !strings.Contains(string(text), want) {
		t.Errorf("scripts/consul/go.mod does not %s", want)
	}
}
