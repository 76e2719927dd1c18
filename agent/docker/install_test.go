package docker

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/socketplane/socketplane/agent/oci"
)

func TestLinkRuntime(t *testing.T) {
	path := filepath.Join(t.TempDir(), oci.RuntimeProgram)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := linkRuntime(path); err != nil {
			t.Fatal(err)
		}
		if target, err := os.Readlink(path); err != nil || target != self || !oci.IsRuntime(path) {
			t.Errorf("%s -> %s, %v", path, target, err)
		}
		// What a former version left is replaced.
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/gone", path); err != nil {
			t.Fatal(err)
		}
	}
}

func TestInstallProgram(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, oci.RuntimeProgram)
	for name, before := range map[string]func() error{
		"nothing":         func() error { return nil },
		"the link of old": func() error { return os.Symlink("/gone", path) },
		"another version": func() error { return os.WriteFile(path, []byte("old"), 0o755) },
		"not executable":  func() error { return os.WriteFile(path, []byte("#!new"), 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := before(); err != nil {
				t.Fatal(err)
			}
			if err := installProgram(path, []byte("#!new")); err != nil {
				t.Fatal(err)
			}
			if info, err := os.Lstat(path); err != nil || info.Mode() != 0o755 || readText(t, path) != "#!new" {
				t.Errorf("%v, %v: %q", info, err, readText(t, path))
			}
			was, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := installProgram(path, []byte("#!new")); err != nil {
				t.Fatal(err)
			}
			if is, err := os.Stat(path); err != nil || !os.SameFile(was, is) {
				t.Errorf("what is there already was written again: %v", err)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// What is embedded, in a tree that was built, is a program for Linux.
func TestRuntimeProgram(t *testing.T) {
	program, err := runtimeProgram()
	if err != nil {
		t.Fatal(err)
	}
	if program != nil && !bytes.HasPrefix(program, []byte("\x7fELF")) {
		t.Errorf("it begins with %q", program[:4])
	}
}
