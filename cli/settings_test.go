package cli

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent"
)

func testSources(t *testing.T, file string, env, flags map[string]string) sources {
	t.Helper()
	src := sources{
		hostname: "box", file: filepath.Join(t.TempDir(), "socketplane.toml"), flags: flags,
		getenv: func(k string) (string, bool) { v, ok := env[k]; return v, ok },
	}
	if file != "" {
		if err := os.WriteFile(src.file, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return src
}

func TestSettingsLaterWins(t *testing.T) {
	file := "[consul]\naddress = \"http://file:8500\"\n[ovs]\nbridge = \"br-file\"\n[cluster]\nsession_ttl = \"20s\"\n[docker]\nenabled = false\n[log]\nlevel = \"warn\"\n"
	env := map[string]string{"SOCKETPLANE_CONSUL_ADDRESS": "http://env:8500", "SOCKETPLANE_LOG_LEVEL": "debug"}
	flags := map[string]string{"consul.address": "https://flag:8501"}
	src := testSources(t, file, env, flags)
	s, from, err := loadSettings(src)
	if err != nil {
		t.Fatal(err)
	}
	checks := []struct{ key, got, want, origin string }{
		{"consul.address", s.Consul.Address, "https://flag:8501", "--consul"},
		{"log.level", s.Log.Level, "debug", "SOCKETPLANE_LOG_LEVEL"},
		{"ovs.bridge", s.OVS.Bridge, "br-file", src.file},
		{"host.name", s.Host.Name, "box", "built in"},
		{"api.socket", s.API.Socket, DefaultSocket, "built in"},
	}
	for _, c := range checks {
		if c.got != c.want || from[c.key] != c.origin {
			t.Errorf("%s = %q from %q, want %q from %q", c.key, c.got, from[c.key], c.want, c.origin)
		}
	}
	if s.Cluster.SessionTTL.Duration != 20*time.Second || s.Docker.Enabled || from["docker.enabled"] != src.file {
		t.Errorf("ttl %v, docker %v from %q", s.Cluster.SessionTTL, s.Docker.Enabled, from["docker.enabled"])
	}
}

func TestSettingsRefuses(t *testing.T) {
	tests := []struct {
		name, file string
		env        map[string]string
		flags      map[string]string
		says       []string
	}{
		{name: "unknown key", file: "[consul]\n\naddresz = \"x\"\n", says: []string{"socketplane.toml:3:", `"consul.addresz"`}},
		{name: "unknown table", file: "[consol]\naddress = \"x\"\n", says: []string{"socketplane.toml:1:", "consol"}},
		{name: "wrong type", file: "[docker]\nenabled = \"yes\"\n", says: []string{"socketplane.toml:2:", "enabled"}},
		{name: "no TOML", file: "[consul\n", says: []string{"socketplane.toml:1:"}},
		{name: "key twice", file: "[ovs]\nbridge=\"a\"\nbridge=\"b\"\n", says: []string{"socketplane.toml:3:", "bridge"}},
		{name: "ttl too short", file: "[cluster]\nsession_ttl=\"1s\"\n", says: []string{"cluster.session_ttl", "10s", "socketplane.toml"}},
		{name: "ttl no duration", file: "[cluster]\nsession_ttl=\"soon\"\n", says: []string{"soon", "duration"}},
		{name: "consul's socket not absolute", flags: map[string]string{"consul.address": "unix://run/consul.sock"}, says: []string{"--consul", "unix:///run/consul.sock"}},
		{name: "consul no URL", flags: map[string]string{"consul.address": "127.0.0.1:8500"}, says: []string{"--consul", "http://127.0.0.1:8500"}},
		{name: "consul other scheme", flags: map[string]string{"consul.address": "ftp://x"}, says: []string{"ftp://x"}},
		{name: "datapath", flags: map[string]string{"ovs.datapath": "dpdk"}, says: []string{"dpdk", "system, netdev"}},
		{name: "bridge too long", flags: map[string]string{"ovs.bridge": "a-bridge-of-long-name"}, says: []string{"interface name"}},
		{name: "empty bridge", flags: map[string]string{"ovs.bridge": ""}, says: []string{"ovs.bridge"}},
		{name: "relative path", flags: map[string]string{"host.state_dir": "state"}, says: []string{"absolute"}},
		{name: "long socket", flags: map[string]string{"api.socket": "/" + strings.Repeat("s", 107)}, says: []string{"107"}},
		{name: "level", env: map[string]string{"SOCKETPLANE_LOG_LEVEL": "loud"}, says: []string{"SOCKETPLANE_LOG_LEVEL", "loud"}},
		{name: "boolean in env", env: map[string]string{"SOCKETPLANE_DOCKER_ENABLED": "maybe"}, says: []string{"SOCKETPLANE_DOCKER_ENABLED", "true or false"}},
		{name: "host name", flags: map[string]string{"host.name": "a b"}, says: []string{"host.name"}},
		{name: "two tokens", file: "[consul]\ntoken=\"x\"\ntoken_file=\"/y\"\n", says: []string{"choose one"}},
		{name: "public subnet", file: "[network]\nallow_public = [\"203.0.113.0/24\", \"203.0.113.1/24\"]\n", says: []string{"network.allow_public", "host bits"}},
		{name: "loopback allowed", env: map[string]string{"SOCKETPLANE_NETWORK_ALLOW_PUBLIC": "127.0.0.0/8"}, says: []string{"network.allow_public", "loopback"}},
		{name: "routes", file: "[network]\nallow_routes = [\"10.99.0.1/16\"]\n", says: []string{"network.allow_routes", "host bits"}},
		{name: "routes to everywhere", env: map[string]string{"SOCKETPLANE_NETWORK_ALLOW_ROUTES": "0.0.0.0/0"}, says: []string{"network.allow_routes", "too large"}},
		{name: "metadata", file: "[network]\nallow_metadata = [\"a b\"]\n", says: []string{"network.allow_metadata"}},
		{name: "metadata no list", file: "[network]\nallow_metadata = true\n", says: []string{"allow_metadata"}},
		{name: "certificate without key", file: "[consul]\ncert_file=\"/y\"\n", says: []string{"belong together"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := loadSettings(testSources(t, tt.file, tt.env, tt.flags))
			if err == nil {
				t.Fatal("no error")
			}
			if exitCode(err) != exitUsage {
				t.Errorf("exit code %d", exitCode(err))
			}
			for _, s := range tt.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%q does not say %q", err, s)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("%q is more than one line", err)
			}
		})
	}
}

func TestSettingsFileMissing(t *testing.T) {
	src := testSources(t, "", nil, nil)
	if _, _, err := loadSettings(src); err != nil {
		t.Errorf("the default file may be missing: %v", err)
	}
	src.fileMust = true
	if _, _, err := loadSettings(src); err == nil {
		t.Error("a named file may not be missing")
	}
}

// What print-config shows is itself a settings file, and masks secrets.
// What networks may do is a list, in the file and in the environment, and printed
// as it is read.
func TestSettingsLists(t *testing.T) {
	file := "[network]\nallow_public = [\"203.0.113.0/24\", \"198.51.100.0/24\"]\nallow_metadata = [\"a\"]\nallow_routes = [\"10.99.0.0/16\"]\n"
	for _, c := range []struct {
		env  map[string]string
		want agent.Allowed
	}{
		{nil, agent.Allowed{Public: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("198.51.100.0/24")}, Metadata: []string{"a"}, Routes: []netip.Prefix{netip.MustParsePrefix("10.99.0.0/16")}}},
		{map[string]string{"SOCKETPLANE_NETWORK_ALLOW_PUBLIC": "", "SOCKETPLANE_NETWORK_ALLOW_METADATA": "b,*", "SOCKETPLANE_NETWORK_ALLOW_ROUTES": ""}, agent.Allowed{Metadata: []string{"b", "*"}}},
	} {
		for text, env := file, c.env; ; env = nil {
			s, from, err := loadSettings(testSources(t, text, env, nil))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := s.allowed(); err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("%q, %v: %+v, %v", text, env, got, err)
			}
			if text != file {
				break
			}
			var out bytes.Buffer
			if err := printSettings(&out, s, from); err != nil {
				t.Fatal(err)
			}
			text = out.String()
		}
	}
}

func TestPrintSettings(t *testing.T) {
	src := testSources(t, "[consul]\ntoken = \"s3cret\"\n", nil, map[string]string{"cluster.iface": "eth1"})
	s, from, err := loadSettings(src)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := printSettings(&out, s, from); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	if strings.Contains(text, "s3cret") {
		t.Error("the token is shown")
	}
	for _, e := range settingTable() {
		if !strings.Contains(text, e.key+" = ") {
			t.Errorf("%s is not shown", e.key)
		}
	}
	if !strings.Contains(text, "--iface") || !strings.Contains(text, src.file) {
		t.Errorf("origins are missing in:\n%s", text)
	}
	if _, _, err := loadSettings(testSources(t, text, nil, nil)); err != nil {
		t.Errorf("the output is no settings file: %v", err)
	}
}

// A Consul of the user's may listen on a unix socket.
func TestConsulsSocketIsAnAddress(t *testing.T) {
	if err := checkConsul("unix:///run/consul/http.sock"); err != nil {
		t.Error(err)
	}
	if err := checkConsul("unix:///" + strings.Repeat("x", 107)); err == nil {
		t.Error("a path that no socket has is taken")
	}
}
