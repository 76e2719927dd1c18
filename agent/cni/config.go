package cni

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/socketplane/socketplane/agent/api"
)

// DefaultSocket is the default path of the agent's socket. It is a constant because a
// plugin reads no settings.
const DefaultSocket = "/run/socketplane/socketplane.sock"

// maxSocket is the longest path of a unix socket, in bytes (sun_path less its NUL).
const maxSocket = 107

// config is the part of a network configuration that the plugin uses.
type config struct {
	types.PluginConf
	Network       string                     `json:"network"` // name in SocketPlane; empty: the name of the configuration
	Socket        string                     `json:"socket"`
	Allow         []string                   `json:"allowAddresses"` // for every container of this configuration
	Forwarding    bool                       `json:"forwarding"`
	RuntimeConfig map[string]json.RawMessage `json:"runtimeConfig"`
	Args          struct {
		CNI struct {
			IPs        []string `json:"ips"`
			Allow      []string `json:"allowAddresses"` // for one container
			Forwarding bool     `json:"forwarding"`
		} `json:"cni"`
	} `json:"args"`

	// Attachments has the key of the valid attachments as libcni 1.2.0 writes it, which
	// follows an error in the specification.
	Attachments []types.GCAttachment `json:"cni.dev/attachments"`
}

// keys are the configuration keys that the plugin uses or that belong to the runtime.
var keys = map[string]bool{
	"cniVersion": true, "cniVersions": true, "name": true, "type": true, "capabilities": true, "runtimeConfig": true,
	"args": true, "dns": true, "ipam": true, "ipMasq": true, "prevResult": true,
	"network": true, "socket": true, "allowAddresses": true, "forwarding": true,
}

// decode decodes a network configuration. If judge is true, it rejects unknown keys, so
// that a typing error does not silently change the network. Commands that remove something
// set judge to false, because an invalid configuration must not prevent the removal.
func decode(data []byte, judge bool) (config, error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		return config{}, failf(types.ErrDecodingFailure, "network configuration is not a JSON object: %v", err)
	}
	// Go's decoder accepts "Network" for "network". For runtimes these are two keys.
	for key, value := range all {
		if keys[key] || strings.HasPrefix(key, "cni.dev/") {
			continue
		}
		if judge {
			return config{}, failf(types.ErrUnsupportedField, "key %s of the network configuration, with value %s, is unknown; ours are \"network\", \"socket\", \"allowAddresses\" and \"forwarding\"",
				shown(key), short(string(value)))
		}
		delete(all, key)
	}
	known, err := json.Marshal(all)
	if err != nil {
		return config{}, failf(types.ErrDecodingFailure, "network configuration: %v", err)
	}
	var c config
	if err := json.Unmarshal(known, &c); err != nil {
		return c, failf(types.ErrDecodingFailure, "network configuration: %v", err)
	}
	if c.Socket == "" {
		c.Socket = DefaultSocket
	}
	if !filepath.IsAbs(c.Socket) || len(c.Socket) > maxSocket || strings.ContainsRune(c.Socket, 0) {
		return c, failf(types.ErrInvalidNetworkConfig, "key \"socket\": %s is not an absolute path of at most %d bytes", shown(c.Socket), maxSocket)
	}
	if c.Network == "" {
		c.Network = c.Name
	}
	if !judge {
		return c, nil
	}
	if err := api.CheckNetworkRef(c.Network); err != nil {
		return c, failf(types.ErrInvalidNetworkConfig, "%v; name a network of SocketPlane in the key \"network\"", err)
	}
	if !c.IPAM.IsEmpty() {
		return c, failf(types.ErrUnsupportedField, "key \"ipam\", with type %s: addresses come from SocketPlane's own network; remove it", shown(c.IPAM.Type))
	}
	return c, nil
}

// previous decodes the result of the previous plugin. It returns nil if there is none.
func (c *config) previous() (types.Result, error) {
	if c.RawPrevResult == nil {
		return nil, nil
	}
	if err := version.ParsePrevResult(&c.PluginConf); err != nil {
		return nil, failf(types.ErrDecodingFailure, "key \"prevResult\": %v", err)
	}
	return c.PrevResult, nil
}

// strictly decodes one value and rejects unknown fields.
func strictly(data []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	return dec.Decode(into)
}
