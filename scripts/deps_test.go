// Package scripts_test runs the shell scripts of this directory.
package scripts_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// aptGet stands for the real one, which would change the machine: it says much, and
// fails when install is asked for and the file "broken" is beside it.
const aptGet = `#!/bin/sh
echo "apt-get $DEBIAN_FRONTEND $*"
for line in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25; do
	echo "apt-get says $line"
done
[ "$1" = update ] || [ ! -e "$(dirname "$0")/broken" ]
`

// What apt-get says is in the log; a line says what is done, and when it fails the
// end of the log is shown.
func TestDepsLog(t *testing.T) {
	for _, broken := range []bool{false, true} {
		tree, bin := t.TempDir(), t.TempDir()
		script, err := os.ReadFile("deps.sh")
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(tree, "scripts", "deps.sh"), string(script))
		write(t, filepath.Join(bin, "apt-get"), aptGet)
		if broken {
			write(t, filepath.Join(bin, "broken"), "")
		}
		// A machine that lacks most: these programs, and an empty /usr/sbin of its own.
		for _, name := range []string{"sh", "go", "id", "env", "dirname", "mkdir", "tail", "cat", "chmod", "rm", "mount"} {
			path, err := exec.LookPath(name)
			if err != nil {
				path = "/usr/local/go/bin/" + name
			}
			if err := os.Symlink(path, filepath.Join(bin, name)); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command("unshare", "--mount", "--propagation", "private",
			filepath.Join(bin, "sh"), "-c", `mount --bind "$1" /usr/sbin && exec "$2"`, "sh", t.TempDir(), filepath.Join(tree, "scripts", "deps.sh"))
		cmd.Env = []string{"PATH=" + bin, "HOME=" + t.TempDir()}
		out, err := cmd.CombinedOutput()
		said := string(out)
		if (err != nil) != broken {
			t.Fatalf("broken %t: %v\n%s", broken, err, said)
		}
		log, err := os.ReadFile(filepath.Join(tree, "bin", "deps.log"))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"apt-get noninteractive install", "apt-get says 1\n"} {
			if !strings.Contains(string(log), want) {
				t.Errorf("the log does not say %q:\n%s", want, log)
			}
		}
		if !strings.Contains(said, "deps: updating") || !strings.Contains(said, "deps: installing ") || strings.Contains(said, "apt-get says 1\n") {
			t.Errorf("it says:\n%s", said)
		}
		if broken != strings.Contains(said, "apt-get says 25\n") || broken != strings.Contains(said, "deps: could not install: ") {
			t.Errorf("broken %t, and it says:\n%s", broken, said)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
}
