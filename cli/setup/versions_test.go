package setup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRecordOfALaterRelease: what a later release has noted of how the host was survives
// a downgrade that notes something, so that the later release can restore it.
func TestRecordOfALaterRelease(t *testing.T) {
	h := &Host{Root: t.TempDir()}
	path := filepath.Join(h.Root, "state", recordFile)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"version":1,"later":{"a":[1.50]},"sysctls":{"net/ipv4/ip_forward":"0"},"daemon_json":true,"group":false}`)
	if err := h.RememberForwardPolicy("/state", "ACCEPT"); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if text := strings.Join(strings.Fields(string(data)), ""); err != nil || !strings.Contains(text, `"later":{"a":[1.50]}`) || !strings.Contains(text, `"forward_policy":"ACCEPT"`) {
		t.Errorf("the record became %s, %v", data, err)
	}
	if off, err := h.ForwardingWasOff("/state"); err != nil || !off {
		t.Errorf("%v, %v", off, err)
	}
	const newer = `{"version":2,"sysctls":[]}`
	write(newer)
	if err := h.RememberForwardPolicy("/state", "DROP"); err == nil || !strings.Contains(err.Error(), "newer release") || strings.Contains(err.Error(), "remove it") {
		t.Errorf("%v", err)
	}
	if data, _ := os.ReadFile(path); string(data) != newer {
		t.Errorf("the record became %s", data)
	}
}
