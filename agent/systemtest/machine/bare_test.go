package machine

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const moduleRoot = "../../.."

// Without systemd: install.sh from a directory, the agent in the background, an
// endpoint; again; and everything is as it was. In some seconds, in namespaces.
func TestInstallWithoutSystemd(t *testing.T) {
	from := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(from, "socketplane"), "./cli/socketplane")
	build.Dir, build.Env = moduleRoot, append(build.Environ(), "CGO_ENABLED=0")
	if _, err := run(build); err != nil {
		t.Fatal(err)
	}
	// The Consul of the tests, which may lie in bin/.
	consul, err := exec.LookPath("consul")
	if err != nil {
		consul = filepath.Join(moduleRoot, "bin", "consul")
	}
	if consul, err = filepath.EvalSymlinks(consul); err != nil {
		t.Fatal(err)
	}
	if _, err := run(exec.Command("cp", "--reflink=auto", consul, filepath.Join(from, "consul"))); err != nil {
		t.Fatal(err)
	}
	text, err := files.ReadFile("files/bare.sh")
	if err != nil {
		t.Fatal(err)
	}
	script, err := filepath.Abs(filepath.Join(moduleRoot, "scripts", "install.sh"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--propagation", "private", "--net", "--uts", "--ipc",
		"--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", string(text), "bare", from, script)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, second, _ := strings.Cut(string(out), "== second\n")
	second, _, _ = strings.Cut(second, "== refused\n")
	for _, did := range []string{"wrote", "installed", "made"} {
		if strings.Contains(second, did) {
			t.Errorf("the second run did something: %q in\n%s", did, second)
		}
	}
	for _, said := range []string{
		"containers are attached (1,", " begins on this host, at ", "cannot leave it: its agent does not answer", "cluster: this host has left cluster ",
	} {
		if !strings.Contains(string(out), said) {
			t.Errorf("nothing says %q:\n%s", said, out)
		}
	}
	t.Logf("%s", out)
}
