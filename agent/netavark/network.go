package netavark

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/jsonobject"
)

// DefaultSocket is the default path of the agent's socket. It is a constant because a
// plugin reads no settings.
const DefaultSocket = "/run/socketplane/socketplane.sock"

// maxSocket is the longest path of a unix socket, in bytes (sun_path less its NUL).
const maxSocket = 107

// Options of a network (podman network create --opt).
const (
	optionNetwork = "network" // name in SocketPlane; default: Podman's name
	optionSocket  = "socket"  // path of the agent's socket
	optionDNS     = "dns"     // name servers of the containers, separated by commas
)

// maxNameServers is the number of name servers that resolv.conf(5) supports.
const maxNameServers = 3

// subnet is one subnet of a network.
type subnet struct {
	Subnet     string          `json:"subnet"`
	Gateway    string          `json:"gateway"`
	LeaseRange json.RawMessage `json:"lease_range"`
}

// podmanNetwork is the part of Podman's network description that the plugin uses. The
// plugin keeps the other fields of newer Podman versions unchanged.
type podmanNetwork struct {
	name        string
	ifName      string // network_interface
	internal    bool
	ipv6        bool
	subnets     []subnet
	routes      []json.RawMessage
	nameServers []string // network_dns_servers
	ipam        map[string]string
	options     map[string]string
}

// parseNetwork decodes a network description. It checks only that there is a name.
func parseNetwork(o *jsonobject.Object) (podmanNetwork, error) {
	var n podmanNetwork
	for key, into := range map[string]any{
		"name": &n.name, "network_interface": &n.ifName, "internal": &n.internal, "ipv6_enabled": &n.ipv6, "subnets": &n.subnets, "routes": &n.routes,
		"network_dns_servers": &n.nameServers, "ipam_options": &n.ipam, "options": &n.options,
	} {
		if err := field(o, key, into); err != nil {
			return n, err
		}
	}
	if n.name == "" {
		return n, fmt.Errorf("the network has no \"name\"")
	}
	return n, nil
}

// field decodes one value. It leaves into unchanged if the value is absent or null.
func field(o *jsonobject.Object, key string, into any) error {
	raw := o.Get(key)
	if jsonobject.IsNull(raw) {
		return nil
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("key %q: %w", key, err)
	}
	return nil
}

// cluster returns the name of the network in the cluster.
func (n podmanNetwork) cluster() string {
	if given := n.options[optionNetwork]; given != "" {
		return given
	}
	return n.name
}

// socket returns the path of the agent's socket.
func (n podmanNetwork) socket() (string, error) {
	path := n.options[optionSocket]
	if path == "" {
		return DefaultSocket, nil
	}
	if !filepath.IsAbs(path) || len(path) > maxSocket || strings.ContainsRune(path, 0) {
		return "", fmt.Errorf("option %q: %s is not an absolute path of at most %d bytes", optionSocket, shown(path), maxSocket)
	}
	return path, nil
}

// resolvers returns the name servers for the network's containers, without duplicates.
func (n podmanNetwork) resolvers() ([]string, error) {
	given := n.nameServers
	if n.options[optionDNS] != "" {
		given = append(strings.Split(n.options[optionDNS], ","), given...)
	}
	list := []string{} // must not be encoded as null
	for _, s := range given {
		ip, err := netip.ParseAddr(s)
		if err != nil || ip.Zone() != "" {
			return nil, fmt.Errorf("name server %s is not an address", shown(s))
		}
		if !slices.Contains(list, ip.String()) {
			list = append(list, ip.String())
		}
	}
	if len(list) > maxNameServers {
		return nil, fmt.Errorf("%d name servers are given; a container uses %d at most", len(list), maxNameServers)
	}
	return list, nil
}

// check rejects a network with properties that the cluster does not support.
func (n podmanNetwork) check() error {
	for key := range n.options {
		if key != optionNetwork && key != optionSocket && key != optionDNS {
			return fmt.Errorf("option %s (--opt) is unknown; ours are %q, %q and %q", shown(key), optionNetwork, optionSocket, optionDNS)
		}
	}
	if err := api.CheckNetworkRef(n.cluster()); err != nil {
		return fmt.Errorf("%w; name a network of SocketPlane with --opt %s=NAME", err, optionNetwork)
	}
	if _, err := n.socket(); err != nil {
		return err
	}
	if _, err := n.resolvers(); err != nil {
		return err
	}
	switch {
	case n.internal:
		return fmt.Errorf("--internal cannot be used: every network reaches the outside; leave it out")
	case n.ipv6:
		return fmt.Errorf("networks are IPv4; leave out --ipv6 and IPv6 subnets")
	case len(n.routes) > 0:
		return fmt.Errorf("--route cannot be used: a network's containers have a default route by its gateway; leave it out")
	case n.ifName != "":
		return fmt.Errorf("--interface-name cannot be used: the agent names the host's interfaces; leave it out")
	}
	return nil
}

// place checks the address settings of a new network and returns its subnet and gateway.
// They are "" if not set.
func (n podmanNetwork) place() (cidr, gateway string, err error) {
	if driver := n.ipam["driver"]; driver != "" && driver != ipamNone {
		return "", "", fmt.Errorf("--ipam-driver %s cannot be used: the cluster assigns the addresses; leave it out", shown(driver))
	}
	if len(n.subnets) > 1 {
		return "", "", fmt.Errorf("%d subnets are given; a network has one", len(n.subnets))
	}
	for _, s := range n.subnets {
		if !jsonobject.IsNull(s.LeaseRange) {
			return "", "", fmt.Errorf("--ip-range cannot be used: the cluster assigns the addresses; leave it out")
		}
		cidr, gateway = s.Subnet, s.Gateway
	}
	return cidr, gateway, nil
}

// ipamNone keeps Podman from assigning addresses, because it would do so per host.
const ipamNone = "none"

// create creates the network in the cluster if it does not exist, and returns Podman's
// description of it. It removes from that description what the cluster decides, and what
// Podman would reject or do a second time. Repeating the request changes nothing.
func (p *plugin) create(ctx context.Context, input []byte) error {
	o, err := jsonobject.Parse(input)
	if err != nil {
		return fmt.Errorf("network on standard input: %w", err)
	}
	n, err := parseNetwork(o)
	if err != nil {
		return fmt.Errorf("network on standard input: %w", err)
	}
	if err := n.check(); err != nil {
		return fmt.Errorf("network %s: %w", shown(n.name), err)
	}
	cidr, gateway, err := n.place()
	if err != nil {
		return fmt.Errorf("network %s: %w", shown(n.name), err)
	}
	dns, _ := n.resolvers() // check has already
	socket, _ := n.socket() // validated both
	svc := p.connect(socket)
	err = api.WhileUnreachable(ctx, api.Patience, func() error {
		_, err := svc.CreateNetwork(ctx, api.CreateNetworkRequest{ID: n.cluster(), Subnet: cidr, Gateway: gateway})
		return err
	})
	if err != nil {
		return err
	}
	o.Remove("subnets")
	o.Set("ipam_options", json.RawMessage(`{"driver":"`+ipamNone+`"}`))
	// Podman has no DNS service on a network without its own address management, and would
	// reject the list of name servers.
	o.Set("dns_enabled", json.RawMessage("false"))
	o.Remove("network_dns_servers")
	if len(dns) > 0 {
		if n.options == nil {
			n.options = map[string]string{}
		}
		n.options[optionDNS] = strings.Join(dns, ",")
		options, err := json.Marshal(n.options)
		if err != nil {
			return err
		}
		o.Set("options", options)
	}
	return p.tell(o.Bytes())
}
