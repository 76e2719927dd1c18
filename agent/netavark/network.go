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

// DefaultSocket is where the agent is looked for: a plugin reads no settings.
const DefaultSocket = "/run/socketplane/socketplane.sock"

// maxSocket is the length of a unix socket's path (sun_path less its NUL).
const maxSocket = 107

// The options of a network (podman network create --opt).
const (
	optionNetwork = "network" // SocketPlane's network; without it that of Podman's name
	optionSocket  = "socket"  // the agent's
	optionDNS     = "dns"     // name servers of the containers, with commas between them
)

// maxNameServers is the most that resolv.conf(5) reads.
const maxNameServers = 3

// subnet is one of a network's subnets.
type subnet struct {
	Subnet     string          `json:"subnet"`
	Gateway    string          `json:"gateway"`
	LeaseRange json.RawMessage `json:"lease_range"`
}

// podmanNetwork is a network as Podman describes it, as far as we read it. Newer versions
// of Podman have more fields, which stay as they are.
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

// parseNetwork reads a network's description. It judges nothing.
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

// field reads one value; an absent one and null leave what is there.
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

// cluster gives the name of the cluster's network.
func (n podmanNetwork) cluster() string {
	if given := n.options[optionNetwork]; given != "" {
		return given
	}
	return n.name
}

// socket gives the path of the agent's socket.
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

// resolvers gives the name servers of the network's containers.
func (n podmanNetwork) resolvers() ([]string, error) {
	given := n.nameServers
	if n.options[optionDNS] != "" {
		given = append(strings.Split(n.options[optionDNS], ","), given...)
	}
	list := []string{} // never null
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

// check refuses what a network of the cluster cannot be.
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

// place checks what decides a new network's addresses, and gives its subnet and gateway,
// empty where none was given.
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

// ipamNone keeps Podman from assigning addresses, which it would do for each host alone.
const ipamNone = "none"

// create makes the cluster's network, if there is none of this name, and answers with
// Podman's description of it: without what the cluster decides, and what Podman would
// refuse or do a second time. The same request again changes nothing.
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
	dns, _ := n.resolvers() // check has
	socket, _ := n.socket() // checked both
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
	// Podman serves no names on a network without addresses of its own, and would refuse
	// its list of name servers.
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
