package scripts_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A root with another Docker is made once; what the mirror does not have is said, and
// leaves nothing that would pass for a root.
func TestDockerRoot(t *testing.T) {
	tree, tools := t.TempDir(), t.TempDir()
	if err := os.CopyFS(filepath.Join(tree, "scripts"), os.DirFS(".")); err != nil {
		t.Fatal(err)
	}
	// It stands for the real one, which takes a minute: the last argument but one is
	// the root to make.
	mmdebstrap := func(rest string) {
		write(t, filepath.Join(tools, "mmdebstrap"), "#!/bin/sh\nfor a; do before=${last:-} last=$a; done\nmkdir -p \"$before\"\n"+rest)
	}
	run := func(args ...string) (string, int) {
		t.Helper()
		cmd := exec.Command(filepath.Join(tree, "scripts", "docker-root.sh"), args...)
		cmd.Env = append(os.Environ(), "PATH="+tools+":"+os.Getenv("PATH"), "SOCKETPLANE_DEBIAN_MIRROR=http://mirror.test/debian")
		out, _ := cmd.CombinedOutput()
		return string(out), cmd.ProcessState.ExitCode()
	}
	check := func(args, said string, status int) {
		t.Helper()
		if out, code := run(strings.Fields(args)...); code != status || !strings.Contains(out, said) {
			t.Errorf("%s: status %d, want %d and %q:\n%s", args, code, status, said, out)
		}
	}
	made := filepath.Join(tree, "bin", "docker-root-sid-28.5")

	check("", "it is 26.1 or 28.5", 2)
	check("20.10", `no Docker "20.10"`, 2)
	check("28.5 --made", "", 1)
	if _, err := os.Stat(filepath.Join(tree, "bin")); err == nil {
		t.Error("asking makes bin/")
	}
	mmdebstrap("echo \"E: Version '28.5*' for 'docker.io' was not found\"; exit 25\n")
	check("28.5", "Debian sid at http://mirror.test/debian has another version than Docker 28.5 by now", 1)
	mmdebstrap("echo E: no route; exit 25\n")
	check("28.5", "is there a way to the mirror?", 1)
	for _, path := range []string{made, made + ".new"} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("a failure leaves %s", path)
		}
	}
	mmdebstrap("")
	check("28.5", made+"\n", 0)
	mmdebstrap("exit 1\n")
	check("28.5", made+"\n", 0)
	check("28.5 --made", "", 0)
}
