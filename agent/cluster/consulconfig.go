package cluster

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Ports are where a managed Consul listens.
type Ports struct {
	HTTP   int // on loopback only
	Server int // TCP, between hosts: to servers
	Gossip int // TCP and UDP, between all hosts
}

// DefaultPorts are Consul's own. A firewall must let the two between hosts pass.
func DefaultPorts() Ports { return Ports{HTTP: 8500, Server: 8300, Gossip: 8301} }

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
	Client     string   `json:"client_addr"`
	Encrypt    string   `json:"encrypt"`
	Server     bool     `json:"server"`
	Expect     int      `json:"bootstrap_expect,omitempty"`
	RetryJoin  []string `json:"retry_join"`
	// Every second: who boots while others are away finds them soon.
	RetryInterval string         `json:"retry_interval"`
	Ports         map[string]int `json:"ports"`
	Performance   map[string]any `json:"performance"`
	Limits        map[string]int `json:"limits"`
	Autopilot     map[string]any `json:"autopilot"`
	// An end is no leave: a server that is restarted stays in its quorum.
	LeaveOnTerm   bool           `json:"leave_on_terminate"`
	SkipLeaveInt  bool           `json:"skip_leave_on_interrupt"`
	RejoinAfter   bool           `json:"rejoin_after_leave"`
	NoKeyringFile bool           `json:"disable_keyring_file"` // the key is here and nowhere else
	NoUpdateCheck bool           `json:"disable_update_check"`
	NoRemoteExec  bool           `json:"disable_remote_exec"`
	NoCoordinates bool           `json:"disable_coordinates"`
	NoScripts     bool           `json:"enable_script_checks"`
	Connect       map[string]any `json:"connect"`
	UI            map[string]any `json:"ui_config"`
	LogJSON       bool           `json:"log_json"`
	LogLevel      string         `json:"log_level"`
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
		DataDir: filepath.Join(o.Dir, "data"), Bind: o.Bind.String(), Client: "127.0.0.1",
		Encrypt: base64.StdEncoding.EncodeToString(key), Server: o.Server, RetryJoin: []string{}, RetryInterval: "1s",
		Ports: map[string]int{
			"http": o.Ports.HTTP, "server": o.Ports.Server, "serf_lan": o.Ports.Gossip,
			"serf_wan": -1, "dns": -1, "grpc": -1, "grpc_tls": -1, "https": -1,
		},
		// 1: a new leader within 2 s. No load of others has to be drained at a leave.
		Performance: map[string]any{"raft_multiplier": 1, "leave_drain_time": "1s"},
		// The agent alone keeps dozens of connections: watches, renewals, attaches.
		Limits: map[string]int{"http_max_conns_per_client": 1000},
		// A server that is down for a while stays one; that of a host which is gone
		// for good is taken out when its record is.
		Autopilot:   map[string]any{"cleanup_dead_servers": false, "server_stabilization_time": "2s"},
		RejoinAfter: true, SkipLeaveInt: true, NoKeyringFile: true, NoUpdateCheck: true, NoRemoteExec: true, NoCoordinates: true,
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

// writeConfig writes the configuration. same says that a Consul which runs with
// the one found before need not be restarted: where to look for others matters
// at a start only.
func (o ConsulOptions) writeConfig() (path string, same bool, err error) {
	c, err := o.config()
	if err != nil {
		return "", false, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return "", false, fmt.Errorf("directory of Consul: %w", err)
	}
	path = o.configPath()
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return "", false, fmt.Errorf("encode Consul's configuration: %w", err)
	}
	if old, err := readSmall(path); err == nil {
		var was consulConfig
		if json.Unmarshal(old, &was) == nil {
			was.RetryJoin, was.Expect = c.RetryJoin, c.Expect
			again, err := json.MarshalIndent(was, "", "  ")
			same = err == nil && slices.Equal(again, data)
		}
	}
	return path, same, writeSmall(path, append(data, '\n'))
}

func (o ConsulOptions) configPath() string { return filepath.Join(o.Dir, "consul.json") }
