package cli

import (
	"net"
	"path/filepath"
	"testing"
)

func TestNotifySystemd(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := notifySystemd("READY=1"); err != nil {
		t.Errorf("nobody asked: %v", err)
	}
	for _, name := range []string{filepath.Join(t.TempDir(), "notify"), "@socketplane-notify-test"} {
		l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv("NOTIFY_SOCKET", name)
		if err := notifySystemd("READY=1"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		got := make([]byte, 64)
		n, err := l.Read(got)
		if err != nil || string(got[:n]) != "READY=1" {
			t.Errorf("%s: got %q, %v", name, got[:n], err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Setenv("NOTIFY_SOCKET", "/nowhere/notify")
	if err := notifySystemd("READY=1"); err == nil {
		t.Error("nobody was told, and no error says so")
	}
}
