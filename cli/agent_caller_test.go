package cli

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/socketplane/socketplane/agent/api"
)

// The log says which user and process called what, where that changes something or
// reads the token.
func TestCallsAreRecorded(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "caller") // a user gets there
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{dir, path} {
		if err := os.Chmod(p, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	var log bytes.Buffer
	seen := make(chan api.Caller, 10)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, ok := api.CallerOf(r.Context())
		if !ok {
			t.Error("a call does not say who makes it")
		}
		seen <- c
		if r.URL.Path == "/v1/none" {
			w.WriteHeader(http.StatusNotFound)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- serve(ctx, apiServer(api.Recorded(handler, slog.New(slog.NewTextHandler(&log, nil)))), l)
	}()
	call := func(uid uint32, method, path string) int {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "curl", "--silent", "--unix-socket", l.Addr().String(), "-X", method, "http://x"+path)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: 65534}}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %s: %v: %s", method, path, err, out)
		}
		if c := <-seen; c.UID != uid || int(c.PID) != cmd.Process.Pid {
			t.Errorf("%s %s by uid %d, pid %d: %+v", method, path, uid, cmd.Process.Pid, c)
		}
		return cmd.Process.Pid
	}
	var want []string
	for _, c := range []struct {
		uid          uint32
		method, path string
		status       int // 0: no line
	}{
		{65534, "GET", "/v1/status", 0},
		{0, "POST", "/v1/attach", 200},
		{65534, "DELETE", "/v1/none", 404},
		{65534, "GET", "/v1/cluster/token", 200},
		{0, "GET", "/v1/networks", 0},
		{65533, "POST", "/v1/" + strings.Repeat("x", 3000), 200},
	} {
		pid := call(c.uid, c.method, c.path)
		if c.status != 0 {
			want = append(want, fmt.Sprintf("msg=called method=%s path=%.200s", c.method, c.path), fmt.Sprintf("uid=%d pid=%d status=%d", c.uid, pid, c.status))
		}
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	got := log.String()
	for _, w := range want {
		if !strings.Contains(got, w) {
			t.Errorf("the log lacks %q:\n%s", w, got)
		}
	}
	if lines := strings.Count(got, "\n"); lines != len(want)/2 || len(got) > 300*lines {
		t.Errorf("%d lines, %d bytes:\n%s", lines, len(got), got)
	}
}
