package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What cannot be is refused before anything is done.
func TestInstallUsedWrongly(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none")
	for _, tc := range []struct {
		name      string
		bootstrap string // in the environment
		args      []string
		want      string
	}{
		{"begin and join", "", []string{"--bootstrap", "--join", "192.0.2.1"}, "use only one of them"},
		{"begin by the environment, and join", "true", []string{"--join", "192.0.2.1"}, "use only one of them"},
		{"neither true nor false", "maybe", nil, `BOOTSTRAP="maybe"`},
		{"no interface's name", "", []string{"--iface", "eth0;reboot"}, "--iface"},
		{"no token file", "", []string{"--token-file", missing}, missing},
		{"no directory", "", []string{"--from", missing}, missing},
		{"an argument", "", []string{"all"}, "too many arguments"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			a := &app{
				stdin: os.Stdin, stdout: &stdout, stderr: &stderr, hostname: os.Hostname,
				getenv: func(name string) (string, bool) { return tc.bootstrap, name == "BOOTSTRAP" && tc.bootstrap != "" },
			}
			if code := a.run(t.Context(), append([]string{"install"}, tc.args...)); code != exitUsage {
				t.Errorf("exit %d, want %d", code, exitUsage)
			}
			if !strings.Contains(stderr.String(), tc.want) || strings.Count(stderr.String(), "\n") != 1 {
				t.Errorf("said %q, want one line with %q", stderr.String(), tc.want)
			}
			if stdout.Len() > 0 {
				t.Errorf("did something: %s", &stdout)
			}
		})
	}
}

// What install does about the cluster is what a user would say.
func TestInstallEntersTheCluster(t *testing.T) {
	for _, tc := range []struct {
		name  string
		flags installFlags
		want  string
	}{
		{"nothing is said", installFlags{}, ""},
		{"begin", installFlags{bootstrap: true, tokenFile: "/t"}, "cluster bootstrap --token-file /t"},
		{"join by address", installFlags{join: []string{"192.0.2.1", "192.0.2.2"}, tokenFile: "/t", iface: "eth1"}, "cluster bind eth1; cluster join --token-file /t -- 192.0.2.1 192.0.2.2"},
		{"join what the token is of", installFlags{tokenFile: "/t"}, "cluster join --token-file /t --"},
	} {
		var said []string
		for _, argv := range clusterCommands(tc.flags) {
			said = append(said, strings.Join(argv, " "))
		}
		if got := strings.Join(said, "; "); got != tc.want || tc.flags.enters() != strings.Contains(tc.want, "cluster") {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

// Running another command of ours, and making the completion, leaves the flags of
// this one alone.
func TestGlobalFlagsSurviveAnotherRoot(t *testing.T) {
	a := &app{stdin: os.Stdin, stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}, getenv: func(string) (string, bool) { return "", false }}
	a.configFile, a.socket = "/tmp/a.toml", "/tmp/a.sock"
	if err := a.hasCommand([]string{"agent", "status"}); err != nil {
		t.Error(err)
	}
	if err := a.hasCommand([]string{"agent", "dance"}); err == nil {
		t.Error("a command that is not there was found")
	}
	if text, err := a.completion("bash"); err != nil || len(text) == 0 {
		t.Errorf("completion: %d bytes, %v", len(text), err)
	}
	if got := strings.Join(a.globalFlags(), " "); got != "--config /tmp/a.toml --socket /tmp/a.sock" {
		t.Errorf("the flags became %q", got)
	}
}
