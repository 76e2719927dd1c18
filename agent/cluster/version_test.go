package cluster

import (
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestVersionsAreOrdered: each version is newer than those before it.
func TestVersionsAreOrdered(t *testing.T) {
	order := []string{
		"e58e9f7", "v0.0.0-20261124101338-e58e9f7", "v0.0.0-20261201101338-0000000", "v0.0.1", "v0.1.0-rc.1", "v0.1.0-rc.1-2-gabcdef0", "v0.1.0-rc.2", "v0.1.0",
		"v0.1.0-1-gabcdef0", "v0.1.0-10-gabcdef0", "v0.1.1", "v0.2.0", "v0.10.0", "v1.0.0", "v10.0.0-14-g0000000",
	}
	for i, a := range order {
		for j, b := range order {
			if got := parseVersion(a).compare(parseVersion(b)); got != compareInts(i, j) {
				t.Errorf("%s and %s: %d", a, b, got)
			}
		}
		if i > 0 && parseVersion(a+"-dirty") != parseVersion(a) {
			t.Errorf("%s-dirty is another", a)
		}
	}
	for _, unread := range []string{"", "unknown", "devel", "devel-abcdef", "e58e9f7-dirty", "v1", "v1.2", "v1.2.3.4", "v1.2.3-", "1.2.3", "v99999999999999999999.0.0", "v1.2.3 x", "v1.2.3-rc.x", "v1.2.3\n"} {
		if parseVersion(unread) != (release{}) {
			t.Errorf("%q was read", unread)
		}
	}
}

func compareInts(a, b int) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func TestBehind(t *testing.T) {
	host := func(id, version string, alive bool, capabilities ...string) Host {
		return Host{ID: id, Version: version, Alive: alive, Capabilities: capabilities}
	}
	for name, c := range map[string]struct {
		hosts []Host
		want  string
	}{
		"the same":                 {[]Host{host("a", "v1.0.0", true), host("b", "v1.0.0", true)}, ""},
		"one is older":             {[]Host{host("a", "v1.0.0", true), host("b", "v1.0.1", true)}, "a"},
		"no version":               {[]Host{host("a", "e58e9f7", true), host("b", "v0.0.0-20261201101338-abc", true)}, "a"},
		"no version, both":         {[]Host{host("a", "e58e9f7", true), host("b", "devel", true)}, ""},
		"no version, a capability": {[]Host{host("a", "e58e9f7", true), host("b", "devel", true, "x")}, "a"},
		"a capability less":        {[]Host{host("a", "v2.0.0", true), host("b", "v1.0.0", true, "x")}, "a b"},
		"the newest is silent":     {[]Host{host("a", "v1.0.0", true), host("b", "v2.0.0", false, "x")}, ""},
		"the oldest is silent":     {[]Host{host("a", "v1.0.0", false), host("b", "v2.0.0", true)}, "a"},
	} {
		if got := strings.Join(slices.Sorted(maps.Keys(Behind(c.hosts))), " "); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// TestVersionOfThisTree: what scripts/version.sh gives a build can be compared, in a
// tree with a tag, with commits since, with changes, and without a tag.
func TestVersionOfThisTree(t *testing.T) {
	dir := t.TempDir()
	run := func(argv ...string) string {
		t.Helper()
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir = dir
		cmd.Env = append(cmd.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b",
			"GIT_COMMITTER_DATE=2026-12-01T10:13:38+02:00", "GIT_AUTHOR_DATE=2026-12-01T10:13:38+02:00")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v: %s", argv, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	script, err := exec.Command("cat", "../../scripts/version.sh").Output()
	if err != nil {
		t.Fatal(err)
	}
	run("mkdir", "scripts")
	write := exec.Command("tee", dir+"/scripts/version.sh")
	write.Stdin = strings.NewReader(string(script))
	if err := write.Run(); err != nil {
		t.Fatal(err)
	}
	version := func() string { return run("sh", "scripts/version.sh") }
	if got := version(); got != "unknown" {
		t.Errorf("no repository: %q", got)
	}
	run("git", "init", "-q")
	run("git", "add", ".")
	run("git", "commit", "-qm", "one")
	untagged := version()
	if !strings.HasPrefix(untagged, "v0.0.0-20261201081338-") {
		t.Errorf("no tag: %q", untagged)
	}
	run("git", "tag", "not-a-version")
	if got := version(); got != untagged {
		t.Errorf("another tag: %q", got)
	}
	run("git", "tag", "v0.2.0-rc.1")
	candidate := version()
	run("git", "commit", "-q", "--allow-empty", "-m", "two")
	since := version()
	run("git", "tag", "v0.2.0")
	tagged := version()
	run("sh", "-c", "echo '#' >>scripts/version.sh")
	dirty := version()
	if candidate != "v0.2.0-rc.1" || !strings.HasPrefix(since, "v0.2.0-rc.1-1-g") || tagged != "v0.2.0" || dirty != "v0.2.0-dirty" {
		t.Errorf("%q, %q, %q, %q", candidate, since, tagged, dirty)
	}
	order := []string{"e58e9f7", untagged, candidate, since, tagged}
	for i := range order[1:] {
		if parseVersion(order[i]).compare(parseVersion(order[i+1])) >= 0 {
			t.Errorf("%q is not older than %q", order[i], order[i+1])
		}
	}
}
