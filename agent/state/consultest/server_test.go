package consultest_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/state/consultest"
)

func request(t *testing.T, method, url, body string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(answer))
}

func TestServerKeepsItsDataAndAddress(t *testing.T) {
	s := consultest.New(t, consultest.Options{})
	addr := s.Addr
	if got := request(t, http.MethodPut, addr+"/v1/kv/a", "1"); got != "true" {
		t.Fatalf("put: got %q", got)
	}
	for name, end := range map[string]func(){"stopped": s.Stop, "killed": s.Kill} {
		end()
		if _, err := http.Get(addr + "/v1/status/leader"); err == nil {
			t.Errorf("%s: it still answers", name)
		}
		if err := s.Restart(); err != nil {
			t.Fatal(err)
		}
		if got := request(t, http.MethodGet, addr+"/v1/kv/a?raw", ""); got != "1" || s.Addr != addr {
			t.Errorf("%s: got %q at %s, want 1 at %s", name, got, s.Addr, addr)
		}
	}
}

func TestACLDeniesWithoutToken(t *testing.T) {
	s := consultest.New(t, consultest.Options{ACL: true})
	if got := request(t, http.MethodPut, s.Addr+"/v1/kv/a", "1"); !strings.Contains(got, "Permission denied") {
		t.Errorf("put without a token: got %q", got)
	}
}
