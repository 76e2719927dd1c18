package cli

import (
	"io"
	"net/http"
	"net/http/httptest"
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
