package main

import (
	"bufio"
	"context"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// scripts/consul.sh says why a release could not be had and begins to build, and an
// interrupt leaves nothing behind.
func TestScriptBuildsWithoutARelease(t *testing.T) {
	if path, err := exec.LookPath("consul"); err == nil {
		t.Logf("the script has nothing to do here: %s", path)
		return
	}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("another program"))
	}))
	t.Cleanup(server.Close)
	certificate := filepath.Join(t.TempDir(), "ca.pem")
	block := &pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}
	if err := os.WriteFile(certificate, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, mirror, want string }{
		{"another checksum", server.URL, "is not what was released"},
		{"nobody listens", "https://127.0.0.1:1", "connection refused"},
		{"it takes connections and says nothing", "https://" + deaf(t), "no answer within 3s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			said := untilItBuilds(t, filepath.Join(dir, "consul"), mirrorEnv+"="+tt.mirror, "SSL_CERT_FILE="+certificate)
			if !strings.Contains(said, tt.want) {
				t.Errorf("it does not say %q: %s", tt.want, said)
			}
			left, err := filepath.Glob(filepath.Join(dir, "consul*"))
			if err != nil || (len(left) > 0 && left[0] != filepath.Join(dir, "consul.log")) {
				t.Errorf("it leaves %q, %v", left, err)
			}
		})
	}
}

// untilItBuilds runs the script, interrupts it when it begins to build, and gives what it said.
func untilItBuilds(t *testing.T, file string, env ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // it builds a small program first
	defer cancel()
	cmd := exec.CommandContext(ctx, "../consul.sh", file)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	building := false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		said.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), "consul: building ") {
			building = true
			cancel()
		}
	}
	_ = cmd.Wait()                                      // it was interrupted
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // go list heeds no signal until it is done
	if !building {
		t.Fatalf("it does not build:\n%s", said.String())
	}
	return said.String()
}
