package cni

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/socketplane/socketplane/agent/api"
)

func TestInstall(t *testing.T) {
	dir := t.TempDir()
	s := Setup{Program: "/usr/bin/socketplane", BinDir: dir + "/bin", ConfDir: dir + "/net.d", Networks: []string{"default", "web"}, Socket: "/run/x.sock"}
	if done, err := s.Install(); err != nil || len(done) != 3 {
		t.Fatalf("%v %q", err, done)
	}
	if target, err := os.Readlink(dir + "/bin/socketplane-cni"); err != nil || target != s.Program {
		t.Errorf("link: %v %q", err, target)
	}
	for file, want := range map[string]string{"10-socketplane.conflist": `"name": "socketplane"`, "11-socketplane-web.conflist": `"socket": "/run/x.sock"`} {
		if text, err := os.ReadFile(filepath.Join(dir, "net.d", file)); err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s: %v %s", file, err, text)
		}
	}
	// What the user changed stays.
	edited := filepath.Join(dir, "net.d", "11-socketplane-web.conflist")
	const text = `{"name":"mine","plugins":[{"type":"x"},{"type":"socketplane-cni"}]}`
	if err := os.WriteFile(edited, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	s.Program = "/usr/local/bin/socketplane" // it has moved
	for _, want := range []string{"linked", "there already"} {
		if done, err := s.Install(); err != nil || len(done) != 1 || !strings.Contains(done[0], want) {
			t.Errorf("%v %q, want %q", err, done, want)
		}
	}
	if got, _ := os.ReadFile(edited); string(got) != text {
		t.Errorf("the user's own is now %s", got)
	}
	if done, err := s.Uninstall(); err != nil || len(done) != 3 {
		t.Errorf("%v %q", err, done)
	}
	for _, d := range []string{s.BinDir, s.ConfDir} {
		if left, err := os.ReadDir(d); err != nil || len(left) != 0 {
			t.Errorf("%v, left %v", err, left)
		}
	}
}

func TestInstallRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		network string
		before  func(dir string) error
		code    api.Code
	}{
		"another's configuration": {"web", func(d string) error {
			return os.WriteFile(d+"/11-socketplane-web.conflist", []byte(`{"plugins":[{"type":"bridge"}]}`), 0o644)
		}, api.CodeConflict},
		"what is none":     {"web", func(d string) error { return os.WriteFile(d+"/11-socketplane-web.conflist", []byte(`{`), 0o644) }, api.CodeConflict},
		"another's plugin": {"web", func(d string) error { return os.WriteFile(d+"/socketplane-cni", nil, 0o755) }, api.CodeConflict},
		"another's link":   {"web", func(d string) error { return os.Symlink("/bin/true", d+"/socketplane-cni") }, api.CodeConflict},
		"a path":           {"../web", func(string) error { return nil }, api.CodeInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := tt.before(dir); err != nil {
				t.Fatal(err)
			}
			before, _ := os.ReadDir(dir)
			s := Setup{Program: "/usr/bin/socketplane", BinDir: dir, ConfDir: dir, Networks: []string{"first", tt.network}, Socket: DefaultSocket}
			done, err := s.Install()
			if api.CodeOf(err) != tt.code || len(done) != 0 {
				t.Errorf("%v %q", err, done)
			}
			if after, _ := os.ReadDir(dir); len(after) != len(before) {
				t.Errorf("left %v", after)
			}
		})
	}
}

// TestInstalledIsRead: what is written is what the plugin reads.
func TestInstalledIsRead(t *testing.T) {
	s := Setup{Socket: DefaultSocket}
	one := s.conflist("default").Plugins[0]
	c, err := decode([]byte(`{"name":"socketplane","network":"`+one.Network+`","type":"`+one.Type+`"}`), true)
	if err != nil || c.Network != api.DefaultNetwork || c.Socket != DefaultSocket {
		t.Errorf("%v %+v", err, c)
	}
	if _, err := asked(c, &skel.CmdArgs{ContainerID: "c", IfName: "eth0", Netns: "/n"}); err != nil {
		t.Error(err)
	}
}
