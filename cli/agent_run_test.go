package cli

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

// TestPluginServer: no connection of dockerd's stays open, to be closed while a
// call is on its way.
func TestPluginServer(t *testing.T) {
	s := httptest.NewUnstartedServer(nil)
	s.Config = pluginServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	s.Start()
	defer s.Close()
	resp, err := s.Client().Post(s.URL, "application/json", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if !resp.Close {
		t.Error("the connection stays open")
	}
}

// A state directory that is ours alone is root's alone, however it came to be.
func TestStateDirIsPrivate(t *testing.T) {
	for name, want := range map[string]os.FileMode{"socketplane": 0o700, "srv": 0o755} {
		dir := filepath.Join(t.TempDir(), name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := prepareStateDir(dir); err != nil {
			t.Fatal(err)
		}
		if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", name, fi.Mode(), err)
		}
	}
	dir := filepath.Join(t.TempDir(), "new", "state")
	if err := prepareStateDir(dir); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
}
