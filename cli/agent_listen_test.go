package cli

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// One agent has the bridge, and no local user can keep it from that: neither with a
// socket of the name that older agents bound, nor with the lock's own file.
func TestLockBridge(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "lock")
	bridge := fmt.Sprintf("t%d", os.Getpid())
	squatter, err := net.Listen("unix", "@socketplane/"+bridge)
	if err != nil {
		t.Fatal(err)
	}
	defer squatter.Close()
	unlock, err := lockBridge(dir, bridge)
	if err != nil {
		t.Fatalf("while somebody has the socket: %v", err)
	}
	if _, err := lockBridge(dir, bridge); err == nil || !strings.Contains(err.Error(), "another agent") || !strings.Contains(err.Error(), bridge) {
		t.Errorf("a second agent: %v", err)
	}
	other, err := lockBridge(dir, bridge+"x")
	if err != nil {
		t.Errorf("on another bridge: %v", err)
	} else {
		other()
	}
	files, err := filepath.Glob(dir + "/*")
	if err != nil || len(files) != 2 {
		t.Fatalf("%q, %v", files, err)
	}
	user := exec.Command("flock", "--nonblock", files[0], "true")
	user.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	for d := dir; d != "/tmp" && d != "/"; d = filepath.Dir(d) { // what keeps it out is the file's mode
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := user.CombinedOutput(); err == nil || !strings.Contains(string(out), "Permission denied") {
		t.Errorf("a user takes the lock: %v: %s", err, out)
	}
	unlock()
	again, err := lockBridge(dir, bridge)
	if err != nil {
		t.Fatalf("after the first has ended: %v", err)
	}
	again()

	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := lockBridge(dir, bridge); err == nil || !strings.Contains(err.Error(), "root alone") {
		t.Errorf("in a directory that everybody can write: %v", err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(t.TempDir(), link); err != nil {
		t.Fatal(err)
	}
	if _, err := lockBridge(link, bridge); err == nil {
		t.Error("in a directory that is somebody's link")
	}
}
