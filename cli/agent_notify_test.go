package cli

import (
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"
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

// An agent that waits for its place is ready for the service manager after a
// while; one that has found it says so itself.
func TestReadyAfter(t *testing.T) {
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: "@socketplane-ready-test", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // only read from
	t.Setenv("NOTIFY_SOCKET", "@socketplane-ready-test")
	readyAfter(time.Hour, slog.New(slog.DiscardHandler))()
	stop := readyAfter(time.Millisecond, slog.New(slog.DiscardHandler))
	defer stop()
	got := make([]byte, 64)
	if err := l.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := l.Read(got); err != nil || string(got[:n]) != "READY=1" {
		t.Errorf("got %q, %v", got[:n], err)
	}
}
