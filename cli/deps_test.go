package cli

import (
	"os"
	"path/filepath"
	"testing"
)

func TestHasAppArmor(t *testing.T) {
	for name, c := range map[string]struct {
		mounted            bool
		enabled, container string
		want               bool
	}{
		"on":             {mounted: true, enabled: "Y\n", want: true},
		"off":            {mounted: true, enabled: "N\n"},
		"in a container": {mounted: true, enabled: "Y\n", container: "systemd-nspawn"},
		"out of sight":   {enabled: "Y\n"},
		"no such module": {mounted: true},
	} {
		t.Run(name, func(t *testing.T) {
			sys := t.TempDir()
			if c.mounted {
				mkdir(t, filepath.Join(sys, "kernel/security/apparmor"))
			}
			if c.enabled != "" {
				dir := filepath.Join(sys, "module/apparmor/parameters")
				mkdir(t, dir)
				if err := os.WriteFile(filepath.Join(dir, "enabled"), []byte(c.enabled), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got := hasAppArmor(sys, c.container); got != c.want {
				t.Errorf("%v", got)
			}
		})
	}
}

func mkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
}
