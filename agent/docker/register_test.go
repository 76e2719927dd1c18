package docker

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRegisterFile(t *testing.T) {
	const entry = "    \"socketplane\": {\n      \"path\": \"/s/socketplane-runc\"\n    }\n"
	const alone = "{\n  \"runtimes\": {\n" + entry + "  }\n}\n"
	tests := []struct{ name, before, after, cleared string }{
		{"no file", "", alone, "{}\n"},
		{"empty object", "{}", alone, "{}\n"},
		{
			"others stay, in their order", `{"log-level":"warn","hosts":["unix:///x"],"a":1.0}`,
			"{\n  \"log-level\": \"warn\",\n  \"hosts\": [\n    \"unix:///x\"\n  ],\n  \"a\": 1.0,\n  \"runtimes\": {\n" + entry + "  }\n}\n",
			"{\n  \"log-level\": \"warn\",\n  \"hosts\": [\n    \"unix:///x\"\n  ],\n  \"a\": 1.0\n}\n",
		},
		{
			"other runtimes stay", `{"runtimes":{"kata":{"path":"/k"}}}`,
			"{\n  \"runtimes\": {\n    \"kata\": {\n      \"path\": \"/k\"\n    },\n" + entry + "  }\n}\n",
			"{\n  \"runtimes\": {\n    \"kata\": {\n      \"path\": \"/k\"\n    }\n  }\n}\n",
		},
		{"a former path", `{"runtimes":{"socketplane":{"path":"/old"}}}`, alone, "{}\n"},
		{"already there", `{"runtimes":{"socketplane":{"path":"/s/socketplane-runc"}}}`, `{"runtimes":{"socketplane":{"path":"/s/socketplane-runc"}}}`, "{}\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			r := Registration{
				DaemonJSON: filepath.Join(dir, "docker", "daemon.json"), PIDFile: filepath.Join(dir, "none.pid"),
				RuntimePath: "/s/socketplane-runc", Logger: slog.New(slog.DiscardHandler),
			}
			if tt.before != "" {
				if err := os.MkdirAll(filepath.Dir(r.DaemonJSON), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(r.DaemonJSON, []byte(tt.before), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 { // twice is once
				if err := Register(t.Context(), r); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tt.after, readText(t, r.DaemonJSON)); diff != "" {
					t.Fatal(diff)
				}
			}
			info, err := os.Stat(r.DaemonJSON)
			if err != nil || (tt.before != "" && info.Mode().Perm() != 0o600) {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
			for range 2 {
				if err := Unregister(t.Context(), r); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tt.cleared, readText(t, r.DaemonJSON)); diff != "" {
					t.Fatal(diff)
				}
			}
		})
	}
}

func TestRegisterLeavesBrokenFileAlone(t *testing.T) {
	for _, text := range []string{"{", "[]", `{"runtimes":[]}`, `{"a":1,"a":2}`, "# comment\n{}", `{"a":1,}`} {
		r := Registration{
			DaemonJSON: filepath.Join(t.TempDir(), "daemon.json"), PIDFile: "/none",
			RuntimePath: "/s", Logger: slog.New(slog.DiscardHandler),
		}
		if err := os.WriteFile(r.DaemonJSON, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Register(t.Context(), r); err == nil || !strings.Contains(err.Error(), r.DaemonJSON) {
			t.Errorf("%q: %v", text, err)
		}
		if got := readText(t, r.DaemonJSON); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
}

func TestRegisterSocket(t *testing.T) {
	r := Registration{
		DaemonJSON: filepath.Join(t.TempDir(), "daemon.json"), PIDFile: "/none",
		RuntimePath: "/s", Socket: "/other.sock", Logger: slog.New(slog.DiscardHandler),
	}
	if err := Register(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if got := readText(t, r.DaemonJSON); !strings.Contains(got, `"--socketplane-socket=/other.sock"`) {
		t.Error(got)
	}
}

func TestRegisterThroughLink(t *testing.T) {
	dir := t.TempDir()
	real, link := filepath.Join(dir, "real.json"), filepath.Join(dir, "daemon.json")
	if err := os.WriteFile(real, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	r := Registration{DaemonJSON: link, PIDFile: "/none", RuntimePath: "/s", Logger: slog.New(slog.DiscardHandler)}
	if err := Register(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if target, err := os.Readlink(link); err != nil || target != real || !strings.Contains(readText(t, real), "socketplane") {
		t.Errorf("%q, %v", target, err)
	}
}

func readText(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
