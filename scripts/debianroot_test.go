package scripts_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A root with another version of a program is made once. A mirror that fails is asked
// again; what it does not have is said, and leaves nothing that would pass for a root.
func TestDebianRoot(t *testing.T) {
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
		cmd := exec.Command(filepath.Join(tree, "scripts", "debian-root.sh"), args...)
		cmd.Env = append(os.Environ(), "PATH="+tools+":"+os.Getenv("PATH"), "SOCKETPLANE_DEBIAN_MIRROR=http://mirror.test/debian", "SOCKETPLANE_DEBIAN_PAUSE=0")
		out, _ := cmd.CombinedOutput()
		return string(out), cmd.ProcessState.ExitCode()
	}
	check := func(args, said string, status int) {
		t.Helper()
		if out, code := run(strings.Fields(args)...); code != status || !strings.Contains(out, said) {
			t.Errorf("%s: status %d, want %d and %q:\n%s", args, code, status, said, out)
		}
	}
	made := filepath.Join(tree, "bin", "root-sid-docker-28.5")
	tried := func(want int) {
		t.Helper()
		log, err := os.ReadFile(filepath.Join(tools, "tried"))
		if err != nil && want > 0 {
			t.Fatal(err)
		}
		if n := strings.Count(string(log), "\n"); n != want {
			t.Errorf("the mirror was asked %d times, want %d", n, want)
		}
		_ = os.Remove(filepath.Join(tools, "tried")) // there is none when it was not asked
	}
	const try = "echo >>\"${0%/*}/tried\"\n"

	check("", "it is docker, podman or ovs", 2)
	check("docker", "it is 26.1 or 28.5", 2)
	check("docker 20.10", `no Docker "20.10"`, 2)
	check("podman 28.5", `no Podman "28.5"; it is 5.4 or 5.8`, 2)
	check("ovs 3.1", `no Open vSwitch "3.1"; it is 3.5 or 4.0`, 2)
	check("docker 28.5 --made", "", 1)
	if _, err := os.Stat(filepath.Join(tree, "bin")); err == nil {
		t.Error("asking makes bin/")
	}
	mmdebstrap(try + "echo \"E: Version '28.5*' for 'docker.io' was not found\"; exit 25\n")
	check("docker 28.5", "Debian sid at http://mirror.test/debian has another version of docker.io than 28.5 by now", 1)
	tried(1)
	mmdebstrap(try + "case \"$*\" in *docker.io=*) echo \"E: Version '28.5*' for 'docker.io' was not found\"; exit 25 ;; esac\n")
	check("docker 28.5 --or-newer", "that one is taken", 0)
	tried(2)
	if err := os.RemoveAll(made); err != nil {
		t.Fatal(err)
	}
	mmdebstrap(try + "echo E: no route; exit 25\n")
	check("docker 28.5", "Docker 28.5 could not be had from Debian sid at http://mirror.test/debian, three times", 1)
	tried(3)
	for _, path := range []string{made, made + ".new"} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("a failure leaves %s", path)
		}
	}
	mmdebstrap(try + "[ \"$(wc -l <\"${0%/*}/tried\")\" = 2 ]\n")
	check("docker 28.5", made+"\n", 0)
	tried(2)
	if _, err := os.Stat(filepath.Join(tree, "bin", "go.mod")); err != nil {
		t.Errorf("./... would look into the root: %v", err)
	}
	mmdebstrap("exit 1\n")
	check("docker 28.5", made+"\n", 0)
	check("docker 28.5 --made", "", 0)
}
