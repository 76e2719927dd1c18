package scripts_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A clone tells which targets have nothing to build on, and an image counts for the
// targets that boot it.
func TestFromNothing(t *testing.T) {
	tree := t.TempDir()
	if err := os.CopyFS(filepath.Join(tree, "scripts"), os.DirFS(".")); err != nil {
		t.Fatal(err)
	}
	// It stands for the real one, which takes a minute: its last argument is the file to make.
	tools := t.TempDir()
	write(t, filepath.Join(tools, "mmdebstrap"), "#!/bin/sh\nfor file; do :; done\n: >\"$file\"\n")
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir, cmd.Env = tree, append(os.Environ(), "PATH="+tools+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	parts := func() (nothing, before []string) {
		t.Helper()
		a, b, ok := strings.Cut(strings.TrimSpace(run("scripts/from-nothing.sh")), ";")
		if !ok {
			t.Fatalf("it says %q", a)
		}
		return strings.Fields(a), strings.Fields(b)
	}
	check := func(when string, list []string, want ...string) {
		t.Helper()
		for _, target := range want {
			if !strings.Contains(" "+strings.Join(list, " ")+" ", " "+target+" ") {
				t.Errorf("%s: %s is not among %q", when, target, list)
			}
		}
	}
	nothing, _ := parts()
	check("a fresh clone, from nothing", nothing, "build", "tools", "package", "test-package", "test-vagrant", "test-cloud-init", "test-walk", "test-vm", "test-docker-26.1", "test-docker-28.5", "test-podman-5.4", "test-ovs-4.0")
	if _, err := os.Stat(filepath.Join(tree, "bin")); err == nil {
		t.Error("asking makes bin/")
	}
	run("scripts/machine-image.sh", "guest")
	write(t, filepath.Join(tree, "bin", "socketplane"), "")
	nothing, before := parts()
	check("with a guest's image, before", before, "build", "test-vagrant", "test-cloud-init", "test-walk")
	check("with a guest's image, from nothing", nothing, "tools", "package", "test-package", "test-vm")
}
