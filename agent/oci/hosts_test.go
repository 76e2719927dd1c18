package oci

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/api"
)

func TestWithHost(t *testing.T) {
	ip := netip.MustParseAddr("10.6.0.9")
	names := []string{"abc", "shop"}
	const base = "127.0.0.1\tlocalhost\n"
	const ours = "10.6.0.9\tabc shop\n"
	tests := []struct{ name, text, want string }{
		{"empty", "", ours},
		{"first start", base, base + ours},
		{"again", base + ours, base + ours},
		{"another address before", base + "10.6.0.2\tabc shop\n", base + ours},
		{"renamed since", base + "10.6.0.9\tabc former\n", base + ours},
		{"no line feed at the end", "127.0.0.1\tlocalhost", base + ours},
		{"--add-host stays", base + "10.1.1.1\tdb\n", base + "10.1.1.1\tdb\n" + ours},
		{"somebody's line stays", base + "10.1.1.1\tdb abc\n", base + "10.1.1.1\tdb abc\n" + ours},
		{"loopback stays", "127.0.1.1\tabc\n", "127.0.1.1\tabc\n" + ours},
		{"comments stay", "# abc\n", "# abc\n" + ours},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := withHost(tt.text, ip, names); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

func TestNameInHosts(t *testing.T) {
	id := strings.Repeat("ab", 32)
	root := t.TempDir()
	dir := filepath.Join(root, "containers", id)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	hosts, config := filepath.Join(dir, "hosts"), filepath.Join(root, "config.json")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	mount := func(source string) {
		t.Helper()
		write(config, fmt.Sprintf(`{"hostname":"box","mounts":[{"destination":"/etc/hosts","source":%q}],"x":1}`, source))
	}
	e := api.Endpoint{ContainerName: "shop", IP: netip.MustParseAddr("10.6.0.9")}

	write(hosts, "127.0.0.1\tlocalhost and a long tail that is replaced\n")
	before, err := os.Stat(hosts)
	if err != nil {
		t.Fatal(err)
	}
	mount(hosts)
	for range 2 {
		if err := nameInHosts(config, id, e); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(hosts)
	if err != nil || string(got) != "127.0.0.1\tlocalhost and a long tail that is replaced\n10.6.0.9\tbox shop\n" {
		t.Errorf("%q, %v", got, err)
	}
	if after, err := os.Stat(hosts); err != nil || !os.SameFile(before, after) {
		t.Error("the file was replaced: the container would not see it")
	}

	// A file that the user mounted is none of our business.
	own := filepath.Join(root, "own-hosts")
	write(own, "mine\n")
	mount(own)
	if err := nameInHosts(config, id, e); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(own); string(got) != "mine\n" {
		t.Errorf("the user's file became %q", got)
	}

	// A link in its place is not followed.
	if err := os.Remove(hosts); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(own, hosts); err != nil {
		t.Fatal(err)
	}
	mount(hosts)
	if err := nameInHosts(config, id, e); err == nil {
		t.Error("a link was followed")
	}
	if got, _ := os.ReadFile(own); string(got) != "mine\n" {
		t.Errorf("through a link the user's file became %q", got)
	}
}

func TestIsDockersHosts(t *testing.T) {
	id := strings.Repeat("ab", 32)
	for path, want := range map[string]bool{
		"/var/lib/docker/containers/" + id + "/hosts":    true,
		"/data/containers/" + id + "/hosts":              true,
		"/data/containers/" + id + "/../x/hosts":         false,
		"/data/containers/other/hosts":                   false,
		"/data/elsewhere/" + id + "/hosts":               false,
		"/data/containers/" + id + "/resolv.conf":        false,
		"containers/" + id + "/hosts":                    false,
		"/etc/hosts":                                     false,
		"/data/containers/" + id + "/deeper/" + "/hosts": false,
	} {
		if isDockersHosts(path, id) != want {
			t.Errorf("%s", path)
		}
	}
}

func TestHostNames(t *testing.T) {
	if got := hostNames("box", "box", "a b", "", "x#y", "shop"); strings.Join(got, ",") != "box,shop" {
		t.Errorf("%q", got)
	}
}
