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

// Ports are where a managed Consul listens on the host's address. Its HTTP API is
// on a unix socket.
type Ports struct {
	Server int // TCP, between hosts: to servers
	Gossip int // TCP and UDP, between all hosts
}

// DefaultPorts are Consul's own. A firewall must let both pass between hosts.
func DefaultPorts() Ports { return Ports{Server: 8300, Gossip: 8301} }

// ConsulOptions says how this host's Consul is to run.
type ConsulOptions struct {
	Binary   string
	Dir      string // of its files, made when missing
	HostID   string // UUID: Consul's node id
	HostName string
	Bind     netip.Addr
	Cluster  string // UUID
	Token    Token
	Server   bool
	First    bool         // a server that begins a cluster if it has no data yet
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
	// Every second: who boots while others are away finds them soon.
	RetryInterval string            `json:"retry_interval"`
	Ports         map[string]int    `json:"ports"`
	Addresses     map[string]string `json:"addresses"`
	UnixSockets   map[string]string `json:"unix_sockets"`
	HTTP          map[string]any    `json:"http_config"`
	Performance   map[string]any    `json:"performance"`
	Limits        map[string]int    `json:"limits"`
	Autopilot     map[string]any    `json:"autopilot"`
	// An end is no leave: a server that is restarted stays in its quorum.
	LeaveOnTerm   bool           `json:"leave_on_terminate"`
	SkipLeaveInt  bool           `json:"skip_leave_on_interrupt"`
	RejoinAfter   bool           `json:"rejoin_after_leave"`
	NoKeyringFile bool           `json:"disable_keyring_file"` // the key is here and nowhere else
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

// blockedEndpoints are the prefixes of Consul's HTTP API that nobody needs here:
// what makes Consul send requests of others, and what changes the gossip's keys or
// how Consul itself works. What is left serves the agent, and root with `consul
// members`, `kv`, `monitor`, `operator raft`, `snapshot` and the like.
var blockedEndpoints = []string{
	"/v1/acl", "/v1/agent/check/", "/v1/agent/connect", "/v1/agent/maintenance", "/v1/agent/reload", "/v1/agent/service/",
	"/v1/agent/token", "/v1/catalog/deregister", "/v1/catalog/register", "/v1/config", "/v1/connect", "/v1/coordinate",
	"/v1/discovery-chain", "/v1/event", "/v1/exported-services", "/v1/imported-services", "/v1/internal",
	"/v1/operator/keyring", "/v1/peering", "/v1/query",
}

// datacenter names the cluster to Consul. Hosts of another datacenter are
// refused by Consul itself, so two clusters cannot become one, even if they have
// the same token.
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
			"http": 8500, // only says that there is HTTP: the address is a socket's
		},
		// On TCP any local user could use it, and a web page in a browser of the host.
		Addresses:   map[string]string{"http": socketURL(o.socket())},
		UnixSockets: map[string]string{"mode": "0600"},
		HTTP:        map[string]any{"block_endpoints": blockedEndpoints},
		// 1: a new leader within 2 s. No load of others has to be drained at a leave.
		Performance: map[string]any{"raft_multiplier": 1, "leave_drain_time": "1s"},
		// The agent alone keeps dozens of connections: watches, renewals, attaches. Those
		// of a unix socket have one remote address, so all of them count as one client's.
		Limits: map[string]int{"http_max_conns_per_client": 1000},
		// A server that is down for a while stays one; that of a host which is gone
		// for good is taken out when its record is.
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

// nodeName is a host's name in Consul: that of the host, made unique, in what a
// DNS label takes.
func nodeName(name, id string) string {
	clean := strings.Map(func(r rune) rune {
		if r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '-'
	}, name)
	return clean[:min(len(clean), 50)] + "-" + id[:min(len(id), 8)]
}

// encodeConfig gives the content of the configuration's file. same says that a
// Consul which runs with the file that is there need not be restarted: where to look
// for others matters at a start only.
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
	dec.DisallowUnknownFields() // another agent's: it may open a listener that this one knows nothing of
	if dec.Decode(&was) == nil {
		was.RetryJoin, was.Expect = c.RetryJoin, c.Expect
		again, err := json.MarshalIndent(was, "", "  ")
		same = err == nil && bytes.Equal(again, data)
	}
	return data, same, nil
}

// writeConfig writes the configuration. One that a running Consul was not started
// with must not be there: the next agent would take that Consul over.
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
