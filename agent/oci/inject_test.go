package oci

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWithHook(t *testing.T) {
	const ours = `{"path":"/bin/sp","args":["socketplane","hook","create-runtime"],"timeout":30}`
	tests := []struct{ name, config, want string }{
		{"no hooks", `{"ociVersion":"1.0"}`, `{"ociVersion":"1.0","hooks":{"createRuntime":[` + ours + `]}}`},
		{"null", `{"hooks":null}`, `{"hooks":{"createRuntime":[` + ours + `]}}`},
		{"null phase", `{"hooks":{"createRuntime":null}}`, `{"hooks":{"createRuntime":[` + ours + `]}}`},
		{
			"others stay in front", `{"hooks":{"prestart":[{"path":"/x"}],"createRuntime":[{"path":"/y", "more":1}]}}`,
			`{"hooks":{"prestart":[{"path":"/x"}],"createRuntime":[{"path":"/y", "more":1},` + ours + `]}}`,
		},
		{
			"what is not known stays as it is", `{"z": {"b":1.50,  "a":"\u003c<&"},"big":12345678901234567890,"a":[ ]}`,
			`{"z":{"b":1.50,  "a":"\u003c<&"},"big":12345678901234567890,"a":[ ],"hooks":{"createRuntime":[` + ours + `]}}`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := withHook([]byte(tt.config), "/bin/sp", "")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, string(got)); diff != "" {
				t.Fatal(diff)
			}
			again, err := withHook(got, "/bin/sp", "")
			if err != nil || string(again) != string(got) {
				t.Errorf("twice is not once: %s, %v", again, err)
			}
		})
	}
	got, err := withHook([]byte(`{}`), "/bin/sp", "/other.sock")
	if err != nil || !strings.Contains(string(got), `["socketplane","hook","create-runtime","/other.sock"]`) {
		t.Errorf("socket is not passed on: %s, %v", got, err)
	}
	for _, bad := range []string{``, `[]`, `{`, `{"hooks":[]}`, `{"hooks":{"createRuntime":{}}}`, `{"a":1,"a":2}`, `{} {}`, `nonsense`} {
		if _, err := withHook([]byte(bad), "/bin/sp", ""); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestInjectHookKeepsMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, []byte(`{"ociVersion":"1.0"}`), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := injectHook(path, "/bin/sp", ""); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	data, err := os.ReadFile(path)
	if err != nil || !json.Valid(data) {
		t.Errorf("%s, %v", data, err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func FuzzWithHooks(f *testing.F) {
	f.Add([]byte(`{"hooks":{"createRuntime":[{"path":"/y"}]},"x":[1,2]}`))
	f.Fuzz(func(t *testing.T, config []byte) {
		got, err := withHook(config, "/bin/sp", "")
		if err != nil {
			return
		}
		if !json.Valid(got) {
			t.Fatalf("%q became %q", config, got)
		}
		var before, after map[string]any
		if json.Unmarshal(config, &before) != nil || json.Unmarshal(got, &after) != nil {
			t.Fatalf("%q became %q", config, got)
		}
		delete(before, "hooks")
		delete(after, "hooks")
		if diff := cmp.Diff(before, after); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestBundleOf(t *testing.T) {
	tests := []struct {
		args, bundle string
		creates      bool
	}{
		{"--root /r --log /l --log-format json create --bundle /b --pid-file /p id", "/b", true},
		{"--root=/r --systemd-cgroup create --pid-file /p --bundle=/b id", "/b", true},
		{"create -b /b id", "/b", true},
		{"create --no-pivot id", ".", true},
		{"run --bundle /b id", "/b", true},
		{"--root create start id", "", false},
		{"--log /create delete --force id", "", false},
		{"start create", "", false},
		{"kill --all id 9", "", false},
		{"--version", "", false},
		{"", "", false},
	}
	for _, tt := range tests {
		verb, rest := subcommand(strings.Fields(tt.args))
		bundle, creates := "", verb == "create" || verb == "run"
		if creates {
			bundle = bundleOf(rest)
		}
		if bundle != tt.bundle || creates != tt.creates {
			t.Errorf("%q: %q %v, want %q %v", tt.args, bundle, creates, tt.bundle, tt.creates)
		}
	}
}

func TestTakeSocket(t *testing.T) {
	rest, socket := takeSocket(strings.Fields("--socketplane-socket=/s --root /r create --socketplane-socket=no id"))
	if socket != "/s" || strings.Join(rest, " ") != "--root /r create --socketplane-socket=no id" {
		t.Errorf("%q %q", rest, socket)
	}
}

func TestIsRuntime(t *testing.T) {
	for name, want := range map[string]bool{"/x/bin/socketplane-runc": true, "socketplane-runc": true, "socketplane": false, "/x/runc": false, "": false} {
		if IsRuntime(name) != want {
			t.Errorf("%q", name)
		}
	}
}
