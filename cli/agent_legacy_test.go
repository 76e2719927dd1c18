package cli

import (
	"os"
	"path/filepath"
	"testing"
)

// TestMakeNetNSDir: the directory is there, also when it was there before.
func TestMakeNetNSDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run", "netns")
	for range 2 {
		if err := makeNetNSDir(dir); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() || info.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", info, err)
	}
	if err := makeNetNSDir(filepath.Join("/dev/null", "netns")); err == nil {
		t.Error("it was made below a device")
	}
}
