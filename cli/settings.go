package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// DefaultConfigFile is the settings file if none is named. It need not exist.
const DefaultConfigFile = "/etc/socketplane/socketplane.toml"

// DefaultSocket is where the agent listens, and where an OCI hook, which has no
// environment, looks for it.
const DefaultSocket = runDir + "/socketplane.sock"

// runDir is the agent's runtime directory, which belongs to root. lockDir contains the
// locks of its bridge.
const (
	runDir  = "/run/socketplane"
	lockDir = runDir + "/lock"
)

// DefaultTokenFile may contain the token of the cluster that this host should join by
// itself.
const DefaultTokenFile = "/etc/socketplane/cluster.token"

// Settings contains all settings. The toml tags are the names in the file. settingTable
// contains their flags, variables and checks.
type Settings struct {
	Host struct {
		Name     string `toml:"name"`
		StateDir string `toml:"state_dir"`
	} `toml:"host"`
	Cluster struct {
		Iface      string   `toml:"iface"`       // interface whose address is the tunnel endpoint; empty: the agent selects one
		TokenFile  string   `toml:"token_file"`  // token with which a host without a cluster finds its cluster
		SessionTTL Duration `toml:"session_ttl"` // 10 s to 24 h, Consul's limits

		InsecureAutojoin bool `toml:"insecure_autojoin"` // find, join and be joined by any host without a token

		DrainAfter   Duration `toml:"drain_after"`   // from the end of a dead host's session until hosts stop sending to it
		ReclaimAfter Duration `toml:"reclaim_after"` // from then until its addresses are released
	} `toml:"cluster"`
	Consul struct {
		Address   string `toml:"address"` // URL; empty: the agent runs one in a cluster, and uses a file without a cluster
		Token     string `toml:"token"`
		TokenFile string `toml:"token_file"`
		CAFile    string `toml:"ca_file"`
		CertFile  string `toml:"cert_file"`
		KeyFile   string `toml:"key_file"`
	} `toml:"consul"`
	OVS struct {
		Bridge   string `toml:"bridge"`
		Datapath string `toml:"datapath"` // system, netdev, or empty: the agent selects one
		Socket   string `toml:"socket"`   // OVSDB's unix socket
	} `toml:"ovs"`
	Docker struct {
		Enabled         bool   `toml:"enabled"`
		Socket          string `toml:"socket"`
		RegisterRuntime bool   `toml:"register_runtime"`
		DaemonJSON      string `toml:"daemon_json"`
	} `toml:"docker"`
	Network struct {
		AllowRoutes   []string `toml:"allow_routes"`   // prefixes that routes through containers may have
		AllowPublic   []string `toml:"allow_public"`   // subnets outside of the private ranges that networks may have
		AllowMetadata []string `toml:"allow_metadata"` // networks whose containers may read the cloud's metadata; "*": all
		Uplinks       []string `toml:"uplinks"`        // additional interfaces through which containers may leave
		DenyForward   bool     `toml:"deny_forward"`   // only on a host that did not forward before
	} `toml:"network"`
	API struct {
		Socket string `toml:"socket"`
		Legacy bool   `toml:"legacy"` // also serve the API of 2015 on TCP
	} `toml:"api"`
	Proxy struct {
		Listen   string `toml:"listen"` // tcp://ADDRESS:PORT or unix:///PATH
		CertFile string `toml:"cert_file"`
		KeyFile  string `toml:"key_file"`
		CAFile   string `toml:"ca_file"`
	} `toml:"proxy"`
	Log struct {
		Level string `toml:"level"` // debug, info, warn or error
		File  string `toml:"file"`  // log of a background agent; under systemd the journal is used
	} `toml:"log"`

	tokenFileMust bool // cluster.token_file is set explicitly: a missing file is a problem
}

// Duration is a time.Duration that is written as text, such as "10s".
type Duration struct{ time.Duration }

// UnmarshalText parses the format of time.ParseDuration.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a duration; write it like 10s or 1m30s", text)
	}
	d.Duration = v
	return nil
}

// setting is one setting: its name in the file (table.key), its flag on `agent run` or,
// for settings of the proxy, on `proxy`, and its valid values.
type setting struct {
	key    string
	flag   string
	help   string
	secret bool
	field  func(*Settings) any // *string, *bool, *Duration or *[]string
	check  func(string) error  // nil: anything
}

// env returns the environment variable that overrides the file.
func (s setting) env() string { return envName(s.key) }

// agentFlag reports whether `agent run` has a flag for the setting.
func (s setting) agentFlag() bool {
	return s.flag != "" && s.flag != "socket" && !s.proxyFlag() // --socket is global
}

// proxyFlag reports whether the setting's flag belongs to `proxy`.
func (s setting) proxyFlag() bool { return strings.HasPrefix(s.key, "proxy.") }

// set parses text into the field.
func (s setting) set(into *Settings, text string) error {
	switch p := s.field(into).(type) {
	case *string:
		*p = text
	case *bool:
		v, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is not true or false", text)
		}
		*p = v
	case *Duration:
		return p.UnmarshalText([]byte(text))
	case *[]string:
		*p = strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
	}
	return nil
}

// text returns the value in the format of set.
func (s setting) text(from *Settings) string {
	switch p := s.field(from).(type) {
	case *string:
		return *p
	case *bool:
		return strconv.FormatBool(*p)
	case *Duration:
		return p.String()
	case *[]string:
		return strings.Join(*p, ",")
	}
	return ""
}

// settingTable lists every setting in the order of display.
func settingTable() []setting {
	return []setting{
		{"host.name", "name", "name of this host", false, func(s *Settings) any { return &s.Host.Name }, checkHostName},
		{"host.state_dir", "state-dir", "directory of the host's identity and the embedded store", false, func(s *Settings) any { return &s.Host.StateDir }, checkAbs},
		{"cluster.iface", "iface", "interface that carries the tunnels, unless cluster bind names one (default: the one with the default route, or the only global address)", false, func(s *Settings) any { return &s.Cluster.Iface }, orEmpty(checkInterface)},
		{"cluster.token_file", "", "file, root's alone, with the token of the cluster that this host finds and joins by itself", false, func(s *Settings) any { return &s.Cluster.TokenFile }, orEmpty(checkAbs)},
		{"cluster.insecure_autojoin", "", "for demonstrations: without a token, find, join and be joined by anybody on the network", false, func(s *Settings) any { return &s.Cluster.InsecureAutojoin }, nil},
		{"cluster.session_ttl", "", "how long a silent host counts as alive", false, func(s *Settings) any { return &s.Cluster.SessionTTL }, checkTTL},
		{"cluster.drain_after", "", "how long after that a host whose machine is dead keeps its tunnel", false, func(s *Settings) any { return &s.Cluster.DrainAfter }, checkWait(time.Second)},
		{"cluster.reclaim_after", "", "how long after that its addresses are kept for it", false, func(s *Settings) any { return &s.Cluster.ReclaimAfter }, checkWait(time.Second)},
		{"consul.address", "consul", "URL of a Consul that you run and protect, such as http://127.0.0.1:8500 or unix:///PATH (default: the one that the agent runs in a cluster; none for a host alone)", false, func(s *Settings) any { return &s.Consul.Address }, orEmpty(checkConsul)},
		{"consul.token", "", "Consul ACL token", true, func(s *Settings) any { return &s.Consul.Token }, checkToken},
		{"consul.token_file", "", "file that holds the Consul ACL token", false, func(s *Settings) any { return &s.Consul.TokenFile }, orEmpty(checkAbs)},
		{"consul.ca_file", "", "certificates that Consul's must be signed by", false, func(s *Settings) any { return &s.Consul.CAFile }, orEmpty(checkAbs)},
		{"consul.cert_file", "", "client certificate for Consul", false, func(s *Settings) any { return &s.Consul.CertFile }, orEmpty(checkAbs)},
		{"consul.key_file", "", "key of the client certificate", false, func(s *Settings) any { return &s.Consul.KeyFile }, orEmpty(checkAbs)},
		{"ovs.bridge", "bridge", "integration bridge", false, func(s *Settings) any { return &s.OVS.Bridge }, checkInterface},
		{"ovs.datapath", "datapath", "system or netdev (default: system where the kernel has openvswitch)", false, func(s *Settings) any { return &s.OVS.Datapath }, checkOneOf("", "system", "netdev")},
		{"ovs.socket", "", "unix socket of ovsdb-server", false, func(s *Settings) any { return &s.OVS.Socket }, checkAbs},
		{"docker.enabled", "", "follow Docker's containers", false, func(s *Settings) any { return &s.Docker.Enabled }, nil},
		{"docker.socket", "", "unix socket of dockerd", false, func(s *Settings) any { return &s.Docker.Socket }, checkAbs},
		{"docker.register_runtime", "", "name our runtime in Docker's daemon.json", false, func(s *Settings) any { return &s.Docker.RegisterRuntime }, nil},
		{"docker.daemon_json", "", "dockerd's configuration file", false, func(s *Settings) any { return &s.Docker.DaemonJSON }, checkAbs},
		{"network.allow_public", "", "subnets that networks may have on this host beside the private ranges", false, func(s *Settings) any { return &s.Network.AllowPublic }, checkPublic},
		{"network.allow_routes", "", "prefixes that may lead to containers which route for them, see socketplane network route", false, func(s *Settings) any { return &s.Network.AllowRoutes }, checkRoutes},
		{"network.allow_metadata", "", "networks whose containers may reach the cloud's metadata from this host; * is all", false, func(s *Settings) any { return &s.Network.AllowMetadata }, checkMetadata},
		{"network.uplinks", "", "interfaces by which containers may leave this host, beside those that the agent finds", false, func(s *Settings) any { return &s.Network.Uplinks }, checkInterfaces},
		{"network.deny_forward", "", "on a host that did not forward packets before: drop forwarded packets that no rule accepts (iptables -P FORWARD DROP), as Docker does", false, func(s *Settings) any { return &s.Network.DenyForward }, nil},
		{"api.socket", "socket", "unix socket of the agent", false, func(s *Settings) any { return &s.API.Socket }, checkSocket},
		{"api.legacy", "", "serve the API of 2015 on " + legacyAddress + ", too", false, func(s *Settings) any { return &s.API.Legacy }, nil},
		{"proxy.listen", "listen", "where the Docker API proxy listens: tcp://ADDRESS:PORT or unix:///PATH", false, func(s *Settings) any { return &s.Proxy.Listen }, checkListen},
		{"proxy.cert_file", "tlscert", "certificate of the Docker API proxy; with key and CA it may listen on any address", false, func(s *Settings) any { return &s.Proxy.CertFile }, orEmpty(checkAbs)},
		{"proxy.key_file", "tlskey", "key of the proxy's certificate", false, func(s *Settings) any { return &s.Proxy.KeyFile }, orEmpty(checkAbs)},
		{"proxy.ca_file", "tlscacert", "CA certificates that must have signed the certificates of the proxy's clients", false, func(s *Settings) any { return &s.Proxy.CAFile }, orEmpty(checkAbs)},
		{"log.level", "log-level", "debug, info, warn or error", false, func(s *Settings) any { return &s.Log.Level }, checkOneOf("debug", "info", "warn", "error")},
		{"log.file", "", "log of an agent that was started in the background", false, func(s *Settings) any { return &s.Log.File }, checkAbs},
	}
}

// defaultSettings returns the built-in settings.
func defaultSettings(hostname string) Settings {
	var s Settings
	s.Host.Name = hostname
	s.Host.StateDir = "/var/lib/socketplane"
	s.Cluster.TokenFile = DefaultTokenFile
	s.Cluster.SessionTTL = Duration{10 * time.Second} // the shortest that Consul accepts
	s.Cluster.DrainAfter = Duration{20 * time.Second} // some 30 to 45 s after its death
	s.Cluster.ReclaimAfter = Duration{time.Hour}      // a host that is repaired or moved finds everything as before
	s.Network.DenyForward = true
	s.OVS.Bridge = "docker0-ovs"
	s.OVS.Socket = "/run/openvswitch/db.sock"
	s.Docker.Enabled = true
	s.Docker.Socket = "/run/docker.sock"
	s.Docker.RegisterRuntime = true
	s.Docker.DaemonJSON = "/etc/docker/daemon.json"
	s.API.Socket = DefaultSocket
	s.Proxy.Listen = "tcp://127.0.0.1:2375"
	s.Log.Level = "info"
	s.Log.File = "/var/log/socketplane.log"
	return s
}
