package cluster

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
)

// Ports are the ports on the host's address on which a managed Consul listens. Its HTTP
// API uses a unix socket.
type Ports struct {
	Server int // TCP, from all hosts to servers
	Gossip int // TCP and UDP, between all hosts
}

// DefaultPorts returns Consul's default ports. A firewall must allow both between hosts.
func DefaultPorts() Ports { return Ports{Server: 8300, Gossip: 8301} }

// ConsulOptions configures this host's Consul.
type ConsulOptions struct {
	Binary   string
	Dir      string // directory of its files, created if missing
	HostID   string // UUID; Consul's node ID
	HostName string
	Bind     netip.Addr
	Cluster  string // UUID
	Token    Token
	Server   bool
	First    bool         // a server that creates a cluster if it has no data yet
	Join     []netip.Addr // hosts that may be in the cluster
	Ports    Ports
}

// consulConfig is Consul's configuration file.
type consulConfig struct {
	NodeName   string   `json:"node_name"`
	NodeID     string   `json:"node_id"`
	Datacenter string   `json:"datacenter"`
	DataDir    string   `json:"data_dir"`
	Bind       string   `json:"bind_addr"`
	Encrypt    string   `json:"encrypt"`
	Server     bool     `json:"server"`
	Expect     int      `json:"bootstrap_expect,omitempty"`
	RetryJoin  []string `json:"retry_join"`
	// One second, so that a host that boots while others are down finds them soon.
	RetryInterval string            `json:"retry_interval"`
	Ports         map[string]int    `json:"ports"`
	Addresses     map[string]string `json:"addresses"`
	UnixSockets   map[string]string `json:"unix_sockets"`
	HTTP          map[string]any    `json:"http_config"`
	Performance   map[string]any    `json:"performance"`
	Limits        map[string]int    `json:"limits"`
	Autopilot     map[string]any    `json:"autopilot"`
	// An exit is not a leave: a restarted server stays in its quorum.
	LeaveOnTerm   bool           `json:"leave_on_terminate"`
	SkipLeaveInt  bool           `json:"skip_leave_on_interrupt"`
	RejoinAfter   bool           `json:"rejoin_after_leave"`
	NoKeyringFile bool           `json:"disable_keyring_file"` // the key is only in this file
	NoUpdateCheck bool           `json:"disable_update_check"`
	NoRemoteExec  bool           `json:"disable_remote_exec"`
	NoCoordinates bool           `json:"disable_coordinates"`
	ScriptChecks  bool           `json:"enable_script_checks"`       // always false
	LocalScripts  bool           `json:"enable_local_script_checks"` // always false
	NoCheckOutput bool           `json:"discard_check_output"`
	Debug         bool           `json:"enable_debug"` // always false
	Connect       map[string]any `json:"connect"`
	UI            map[string]any `json:"ui_config"`
	LogJSON       bool           `json:"log_json"`
	LogLevel      string         `json:"log_level"`
}

// blockedEndpoints lists the prefixes of Consul's HTTP API that are not needed here. They
// make Consul send requests for others, or change the gossip keys or Consul's operation.
// The remaining endpoints serve the agent, and root with `consul members`, `kv`,
// `monitor`, `operator raft`, `snapshot` and similar commands.
var blockedEndpoints = []string{
	"/v1/acl", "/v1/agent/check/", "/v1/agent/connect", "/v1/agent/maintenance", "/v1/agent/reload", "/v1/agent/service/",
	"/v1/agent/token", "/v1/catalog/deregister", "/v1/catalog/register", "/v1/config", "/v1/connect", "/v1/coordinate",
	"/v1/discovery-chain", "/v1/event", "/v1/exported-services", "/v1/imported-services", "/v1/internal",
	"/v1/operator/keyring", "/v1/peering", "/v1/query",
}

// datacenter returns the cluster's name in Consul. Consul rejects hosts of another
// datacenter, so two clusters cannot merge even with the same token.
func datacenter(cluster string) string { return datacenterPrefix + cluster }

const datacenterPrefix = "socketplane-"

func (o ConsulOptions) config() (consulConfig, error) {
	key, err := o.Token.gossipKey()
	if err != nil {
		return consulConfig{}, err
	}
	c := consulConfig{
		NodeName: nodeName(o.HostName, o.HostID), NodeID: o.HostID, Datacenter: datacenter(o.Cluster),
		DataDir: filepath.Join(o.Dir, "data"), Bind: o.Bind.String(),
		Encrypt: base64.StdEncoding.EncodeToString(key), Server: o.Server, RetryJoin: []string{}, RetryInterval: "1s",
		Ports: map[string]int{
			"server": o.Ports.Server, "serf_lan": o.Ports.Gossip,
			"serf_wan": -1, "dns": -1, "grpc": -1, "grpc_tls": -1, "https": -1,
			"http": 8500, // only enables HTTP; the address is a socket
		},
		// On TCP, any local user and any web page in a browser on the host could use
		// the API.
		Addresses:   map[string]string{"http": socketURL(o.socket())},
		UnixSockets: map[string]string{"mode": "0600"},
		HTTP:        map[string]any{"block_endpoints": blockedEndpoints},
		// raft_multiplier 1: a new leader within 2 s. leave_drain_time: there is no
		// load of other services to drain at a leave.
		Performance: map[string]any{"raft_multiplier": 1, "leave_drain_time": "1s"},
		// The agent alone keeps dozens of connections: watches, renewals, attaches.
		// Connections on a unix socket share one remote address, so Consul counts them
		// all as one client.
		Limits: map[string]int{"http_max_conns_per_client": 1000},
		// A server stays in the quorum while it is down. A host that is gone for good
		// is removed together with its record.
		Autopilot:   map[string]any{"cleanup_dead_servers": false, "server_stabilization_time": "2s"},
		RejoinAfter: true, SkipLeaveInt: true, NoKeyringFile: true, NoUpdateCheck: true, NoRemoteExec: true, NoCoordinates: true, NoCheckOutput: true,
		Connect: map[string]any{"enabled": false}, UI: map[string]any{"enabled": false},
		LogJSON: true, LogLevel: "warn",
	}
	if o.Server && o.First {
		c.Expect = 1
	}
	for _, a := range o.Join {
		if a != o.Bind {
			c.RetryJoin = append(c.RetryJoin, fmt.Sprintf("%s:%d", a, o.Ports.Gossip))
		}
	}
	return c, nil
}

// nodeName returns a host's name in Consul: the host name, made unique, in the characters
// of a DNS label.
func nodeName(name, id string) string {
	clean := strings.Map(func(r rune) rune {
		if r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '-'
	}, name)
	return clean[:min(len(clean), 50)] + "-" + id[:min(len(id), 8)]
}

// encodeConfig returns the content of the configuration file. same reports that a Consul
// running with the existing file need not restart. Differences in the addresses to join
// do not count, because Consul uses them only at its start.
func (o ConsulOptions) encodeConfig() (data []byte, same bool, err error) {
	c, err := o.config()
	if err != nil {
		return nil, false, err
	}
	data, err = json.MarshalIndent(c, "", "  ")
	if err != nil {
		return nil, false, fmt.Errorf("encode Consul's configuration: %w", err)
	}
	old, err := readSmall(o.configPath())
	if err != nil {
		return data, false, nil //nolint:nilerr // nothing can run with it
	}
	var was consulConfig
	dec := json.NewDecoder(bytes.NewReader(old))
	dec.DisallowUnknownFields() // the file of another agent version may open a listener that this one does not know
	if dec.Decode(&was) == nil {
		was.RetryJoin, was.Expect = c.RetryJoin, c.Expect
		again, err := json.MarshalIndent(was, "", "  ")
		same = err == nil && bytes.Equal(again, data)
	}
	return data, same, nil
}

// writeConfig writes the configuration. The file must match the running Consul, because
// the next agent adopts a Consul by it.
func (o ConsulOptions) writeConfig(data []byte) error {
	if err := checkSocketPath(o.socket()); err != nil {
		return err
	}
	if err := prepareDir(o.Dir); err != nil {
		return err
	}
	return writeSmall(o.configPath(), append(data, '\n'))
}

func (o ConsulOptions) configPath() string { return filepath.Join(o.Dir, "consul.json") }

func (o ConsulOptions) socket() string { return filepath.Join(o.Dir, socketName) }
