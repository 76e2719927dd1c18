package setup

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// archive is a release's: one program that can be run.
func archive(t *testing.T) (data []byte, sum string) {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, text := range map[string]string{"LICENSE.txt": "free", "consul": "#!/bin/sh\necho Consul v9.9.9\n"} {
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
	digest := sha256.Sum256(b.Bytes())
	return b.Bytes(), hex.EncodeToString(digest[:])
}

// bare runs real programs, but finds none: this machine may have a Consul.
type bare struct{ Programs }

func (bare) Find(string) (string, error) { return "", os.ErrNotExist }

func (b bare) Run(ctx context.Context, name string, args ...string) (string, error) {
	return b.Programs.Run(ctx, name, args...)
}

func TestConsulIsDownloadedAndVerified(t *testing.T) {
	data, sum := archive(t)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/consul_9.9.9_linux.zip":
			_, _ = w.Write(data)
		case "/plain.zip":
			http.Redirect(w, r, "http://"+r.Host+"/consul_9.9.9_linux.zip", http.StatusFound)
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	for _, tc := range []struct {
		name, url, sum, want string
	}{
		{"right", server.URL + "/consul_9.9.9_linux.zip", sum, ""},
		{"another's checksum", server.URL + "/consul_9.9.9_linux.zip", strings.Repeat("0", 64), "is not what was released"},
		{"not there", server.URL + "/gone.zip", sum, "404"},
		{"led to http", server.URL + "/plain.zip", sum, "not https"},
		{"http", "http://127.0.0.1:1/x.zip", sum, "not https"},
		{"nobody answers", "https://127.0.0.1:1/consul_9.9.9_linux.zip", sum, "connection refused"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h, out := newHost(t, nil)
			h.Command = bare{}
			step := h.consul(Consul{Release: Release{Version: "9.9.9", URL: tc.url, SHA256: tc.sum}, Client: server.Client(), Needed: true}, "/var/lib/socketplane")
			err := h.Run(t.Context(), "install", []Step{step})
			if tc.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if !strings.Contains(out.String(), "(v9.9.9) from") {
					t.Errorf("it said %q", out)
				}
				if r, err := h.record("/var/lib/socketplane"); err != nil || r.Consul != ConsulProgram {
					t.Errorf("noted %q, %v", r.Consul, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "--from DIR") {
				t.Fatalf("got %v, want %q and how to go on", err, tc.want)
			}
			if _, err := os.Stat(h.path(ConsulProgram)); err == nil {
				t.Error("something was installed")
			}
		})
	}
}

func TestConsulFromADirectory(t *testing.T) {
	data, sum := archive(t)
	release := Release{Version: "9.9.9", URL: "https://127.0.0.1:1/consul_9.9.9_linux.zip", SHA256: sum}
	for _, tc := range []struct {
		name, file string
		data       []byte
		want       string
	}{
		{"the program", "consul", []byte("#!/bin/sh\necho Consul v1.2.3\n"), ""},
		{"the archive", "consul_9.9.9_linux.zip", data, ""},
		{"a changed archive", "consul_9.9.9_linux.zip", append([]byte("x"), data...), "checksum"},
		{"nothing", "other", nil, "holds neither consul nor consul_9.9.9_linux.zip"},
		{"another program", "consul", []byte("#!/bin/sh\necho hello\n"), "it is no Consul"},
		{"of another machine", "consul", []byte("\x7fELFnothing"), "exec format error"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h, _ := newHost(t, nil)
			h.Command = bare{}
			from := t.TempDir()
			if err := os.WriteFile(filepath.Join(from, tc.file), tc.data, 0o644); err != nil {
				t.Fatal(err)
			}
			step := h.consul(Consul{From: from, Release: release, Needed: true}, "/var/lib/socketplane")
			err := h.Run(t.Context(), "install", []Step{step})
			if tc.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
			if _, err := os.Stat(h.path(ConsulProgram)); err == nil {
				t.Error("something was installed")
			}
		})
	}
}

// A host on its own goes on without Consul, and is told.
func TestConsulIsNotNeededByOneHost(t *testing.T) {
	h, out := newHost(t, nil)
	h.Command = bare{}
	step := h.consul(Consul{Release: Release{URL: "https://127.0.0.1:1/c.zip"}, Client: http.DefaultClient}, "/s")
	if err := h.Run(t.Context(), "install", []Step{step}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "before a cluster is made or joined") {
		t.Errorf("it said %q", out)
	}
}
