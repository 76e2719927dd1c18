package netavark

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/jsonobject"
)

// undoTimeout bounds the rollback of a setup that cannot write its result.
const undoTimeout = 10 * time.Second

// portMapping is one port of a container, or a range of ports.
type portMapping struct {
	ContainerPort int    `json:"container_port"`
	HostIP        string `json:"host_ip"`
	HostPort      int    `json:"host_port"`
	Protocol      string `json:"protocol"`
	Range         int    `json:"range"`
}

// container is the input of setup and teardown: one container on one network.
type container struct {
	id, name string
	ports    []portMapping
	network  podmanNetwork
	ifName   string
	ips      []string          // static_ips
	mac      string            // static_mac
	options  map[string]string // of this container on this network
}

func parseContainer(input []byte) (container, error) {
	c, err := readContainer(input)
	if err != nil {
		return c, fmt.Errorf("container on standard input: %w", err)
	}
	return c, nil
}

func readContainer(input []byte) (container, error) {
	var c container
	o, err := jsonobject.Parse(input)
	if err != nil {
		return c, err
	}
	network, err := o.Child("network")
	if err != nil {
		return c, err
	}
	mine, err := o.Child("network_options")
	if err != nil {
		return c, err
	}
	if c.network, err = parseNetwork(network); err != nil {
		return c, err
	}
	err = errors.Join(
		field(o, "container_id", &c.id), field(o, "container_name", &c.name), field(o, "port_mappings", &c.ports),
		field(mine, "interface_name", &c.ifName), field(mine, "static_ips", &c.ips), field(mine, "static_mac", &c.mac), field(mine, "options", &c.options))
	if err != nil {
		return c, err
	}
	if c.id == "" {
		return c, errors.New("it has no \"container_id\"")
	}
	return c, api.CheckIfName(c.ifName)
}

// endpointID returns the endpoint id of a container's interface on a network. It contains
// hashes, because Podman's names and ids may be longer than ours.
func (c container) endpointID() string {
	return "netavark-" + digest(16, c.network.name) + "-" + digest(32, c.id, c.ifName)
}

// digest returns n hex digits of a hash of words. It separates the words with a NUL, which
// no word can contain.
func digest(n int, words ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(words, "\x00")))
	return hex.EncodeToString(sum[:])[:n]
}

// asked converts Podman's request to a request for the agent.
func (c container) asked(netns string) (api.AttachRequest, error) {
	req := api.AttachRequest{
		ID: c.endpointID(), Network: c.network.cluster(), Source: api.SourceNetavark, NetNS: netns, IfName: c.ifName,
	}
	if !filepath.IsAbs(netns) {
		return req, fmt.Errorf("network namespace %s is not an absolute path", shown(netns))
	}
	if err := c.network.check(); err != nil {
		return req, fmt.Errorf("network %s: %w", shown(c.network.name), err)
	}
	for key := range c.options {
		return req, fmt.Errorf("option %s of --network %s cannot be used; leave it out", shown(key), shown(c.network.name))
	}
	if err := api.CheckContainerName(c.id); err != nil {
		return req, fmt.Errorf("container id: %w", err)
	}
	if api.CheckEndpointID(c.id) == nil {
		req.ContainerID = c.id
	}
	if api.CheckContainerName(c.name) == nil {
		req.ContainerName = c.name
	}
	var err error
	if req.IP, err = oneAddress(c.ips); err != nil {
		return req, err
	}
	if c.mac != "" {
		if req.MAC, err = api.ParseMAC(c.mac); err != nil {
			return req, err
		}
	}
	req.Ports, err = published(c.ports)
	return req, err
}

// oneAddress returns the one address in a list, or "" for an empty list. `podman network
// reload` lists the same address twice.
func oneAddress(ips []string) (string, error) {
	last := ""
	for _, s := range ips {
		ip, err := api.ParseIP(s)
		if err != nil {
			return "", err
		}
		if last != "" && last != ip.String() {
			return "", fmt.Errorf("addresses %s and %s are asked for; an interface has one", last, ip)
		}
		last = ip.String()
	}
	return last, nil
}

// published splits Podman's port mappings into single ports. Podman may combine several
// ports and several protocols in one mapping.
func published(list []portMapping) ([]api.PortMapping, error) {
	var all []api.PortMapping
	listed := map[string]bool{}
	for _, m := range list {
		n := max(m.Range, 1)
		if m.HostPort < 1 || m.ContainerPort < 1 || n > 65535 || m.HostPort > 65536-n || m.ContainerPort > 65536-n { // written so that no sum overflows
			return nil, fmt.Errorf("published ports: host port %d and container port %d, %d ports from there, must be within 1 to 65535", m.HostPort, m.ContainerPort, n)
		}
		var host netip.Addr
		if m.HostIP != "" {
			ip, err := netip.ParseAddr(m.HostIP)
			if err != nil {
				return nil, fmt.Errorf("published ports: host address %s is not an address", shown(m.HostIP))
			}
			host = ip.Unmap()
		}
		if m.Protocol == "" {
			m.Protocol = api.ProtoTCP
		}
		for proto := range strings.SplitSeq(strings.ToLower(m.Protocol), ",") {
			for i := range n {
				p := api.PortMapping{Proto: proto, HostIP: host, HostPort: uint16(m.HostPort + i), ContainerPort: uint16(m.ContainerPort + i)}
				if listed[p.String()] { // duplicates are allowed
					continue
				}
				if listed[p.String()] = true; len(all) == api.MaxPorts {
					return nil, fmt.Errorf("more than %d ports are published, which is the most for one container", api.MaxPorts)
				}
				all = append(all, p)
			}
		}
	}
	return all, api.CheckPorts(all)
}

// statusBlock is the result of setup.
type statusBlock struct {
	SearchDomains []string                 `json:"dns_search_domains"`
	NameServers   []string                 `json:"dns_server_ips"`
	Interfaces    map[string]interfaceMade `json:"interfaces"`
}

type interfaceMade struct {
	MAC     string        `json:"mac_address"`
	Subnets []addressMade `json:"subnets"`
}

type addressMade struct {
	Gateway netip.Addr `json:"gateway"`
	IPNet   string     `json:"ipnet"`
}

// setup attaches the container. Repeating the request returns the same interface.
func (p *plugin) setup(ctx context.Context, netns string, input []byte) error {
	c, err := parseContainer(input)
	if err != nil {
		return err
	}
	req, err := c.asked(netns)
	if err != nil {
		return err
	}
	dns, err := c.network.resolvers()
	if err != nil {
		return err
	}
	socket, err := c.network.socket()
	if err != nil {
		return err
	}
	svc := p.connect(socket)
	var e api.Endpoint
	err = api.WhileUnreachable(ctx, api.Patience, func() (err error) {
		e, err = svc.Attach(ctx, req)
		return err
	})
	if err != nil && strings.Contains(err.Error(), `taken by the program "podman"`) {
		return fmt.Errorf("%w; if Podman itself keeps the port for this container, set enable_port_reservation = false in [engine] of containers.conf", err)
	}
	if err != nil {
		return err
	}
	err = p.tell(statusBlock{
		SearchDomains: []string{}, NameServers: dns,
		Interfaces: map[string]interfaceMade{e.IfName: {
			MAC: e.MAC, Subnets: []addressMade{{Gateway: e.Gateway, IPNet: fmt.Sprintf("%s/%d", e.IP, e.PrefixLen)}},
		}},
	})
	if err != nil {
		// Podman does not know of the interface, so remove it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		return errors.Join(err, svc.Release(ctx, e.ID))
	}
	return nil
}

// teardown removes the interface. It works without a preceding setup, and checks only the
// input that it needs.
func (p *plugin) teardown(ctx context.Context, input []byte) error {
	c, err := parseContainer(input)
	if err != nil {
		return err
	}
	socket, err := c.network.socket()
	if err != nil {
		return err
	}
	svc := p.connect(socket)
	err = api.WhileUnreachable(ctx, api.Patience, func() error { return svc.Release(ctx, c.endpointID()) })
	if err != nil {
		return fmt.Errorf("take the interface of container %s away: %w", shown(c.id), err)
	}
	return nil
}
