package cni

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/socketplane/socketplane/agent/api"
)

// portMapping is one entry of the capability portMappings (CNI CONVENTIONS.md).
type portMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`
}

// envArgs are the keys of CNI_ARGS that the plugin uses.
type envArgs struct {
	types.CommonArgs
	IP, MAC types.UnmarshallableString
	// Podman and Kubernetes pass the container's name here.
	K8S_POD_NAME               types.UnmarshallableString //nolint:revive // the name is the key
	K8S_POD_NAMESPACE          types.UnmarshallableString //nolint:revive // the name is the key
	K8S_POD_INFRA_CONTAINER_ID types.UnmarshallableString //nolint:revive // the name is the key
	K8S_POD_UID                types.UnmarshallableString //nolint:revive // the name is the key
}

// asked converts the request of a runtime to a request for the agent. If several sources
// specify an address, runtimeConfig takes precedence over args, and args over CNI_ARGS.
func asked(c config, args *skel.CmdArgs) (api.AttachRequest, error) {
	req := api.AttachRequest{
		ID: endpointID(c.Name, args.ContainerID, args.IfName), Network: c.Network, Source: api.SourceCNI,
		NetNS: args.Netns, IfName: args.IfName,
	}
	if err := api.CheckIfName(args.IfName); err != nil {
		return req, failf(types.ErrInvalidEnvironmentVariables, "CNI_IFNAME: %v", err)
	}
	if !strings.HasPrefix(args.Netns, "/") {
		return req, failf(types.ErrInvalidEnvironmentVariables, "CNI_NETNS: %s is not an absolute path", shown(args.Netns))
	}
	var env envArgs
	if err := types.LoadArgs(args.Args, &env); err != nil {
		return req, failf(types.ErrInvalidEnvironmentVariables, "CNI_ARGS: %v", err)
	}
	if err := name(&req, args.ContainerID, string(env.K8S_POD_NAME)); err != nil {
		return req, err
	}
	var ips []string
	var mac string
	for key, value := range c.RuntimeConfig {
		var err error
		switch key {
		case "ips":
			err = json.Unmarshal(value, &ips)
		case "mac":
			err = json.Unmarshal(value, &mac)
		case "portMappings":
			req.Ports, err = ports(value)
		default:
			return req, failf(types.ErrUnsupportedField, "key %s of runtimeConfig, with value %s, is unknown; the capabilities are ips, mac and portMappings",
				shown(key), short(string(value)))
		}
		if err != nil {
			return req, failf(types.ErrInvalidNetworkConfig, "runtimeConfig.%s: %v", key, err)
		}
	}
	if len(ips) == 0 {
		ips = c.Args.CNI.IPs
	}
	if len(ips) == 0 && env.IP != "" {
		ips = []string{string(env.IP)}
	}
	var err error
	if req.IP, err = oneAddress(ips); err != nil {
		return req, err
	}
	req.AllowAddresses = slices.Concat(c.Allow, c.Args.CNI.Allow)
	req.Forwarding = c.Forwarding || c.Args.CNI.Forwarding
	if _, err := api.ParseAllowed(req.AllowAddresses); err != nil {
		return req, failf(types.ErrInvalidNetworkConfig, "allowAddresses: %v", err)
	}
	if mac == "" {
		mac = string(env.MAC)
	}
	if mac != "" {
		parsed, err := api.ParseMAC(mac)
		if err != nil {
			return req, failf(types.ErrInvalidNetworkConfig, "%v", err)
		}
		req.MAC = parsed
	}
	return req, nil
}

// oneAddress returns the one address in a list, or "" for an empty list. The same address
// may be listed twice, as `podman network reload` does.
func oneAddress(ips []string) (string, error) {
	var last string
	all := map[string]bool{}
	for _, s := range ips {
		bare, _, _ := strings.Cut(s, "/") // some runtimes append the prefix length
		ip, err := api.ParseIP(bare)
		if err != nil {
			return "", failf(types.ErrInvalidNetworkConfig, "%v", err)
		}
		last = ip.String()
		all[last] = true
	}
	if len(all) > 1 {
		return "", failf(types.ErrInvalidNetworkConfig, "%d addresses are asked for; an interface has one", len(all))
	}
	return last, nil
}

// name sets the container of the endpoint. Runtimes may use longer ids than ours
// (containerd prefixes its namespace). name uses an id that does not fit as the
// container's name.
func name(req *api.AttachRequest, containerID, given string) error {
	if err := api.CheckContainerName(containerID); err != nil {
		return failf(types.ErrInvalidEnvironmentVariables, "CNI_CONTAINERID: %v", err)
	}
	if api.CheckEndpointID(containerID) == nil {
		req.ContainerID = containerID
	} else {
		req.ContainerName = containerID
	}
	if given != "" && api.CheckContainerName(given) == nil {
		req.ContainerName = given
	}
	return nil
}

func ports(value json.RawMessage) ([]api.PortMapping, error) {
	var list []portMapping
	if err := strictly(value, &list); err != nil {
		return nil, err
	}
	var all []api.PortMapping
	listed := map[string]bool{}
	for _, m := range list {
		if m.HostPort < 1 || m.HostPort > 65535 || m.ContainerPort < 1 || m.ContainerPort > 65535 {
			return nil, failf(types.ErrInvalidNetworkConfig, "hostPort %d and containerPort %d must both be 1 to 65535", m.HostPort, m.ContainerPort)
		}
		p := api.PortMapping{Proto: strings.ToLower(m.Protocol), HostPort: uint16(m.HostPort), ContainerPort: uint16(m.ContainerPort)}
		if p.Proto == "" {
			p.Proto = api.ProtoTCP
		}
		if m.HostIP != "" {
			ip, err := netip.ParseAddr(m.HostIP)
			if err != nil {
				return nil, failf(types.ErrInvalidNetworkConfig, "hostIP %s is not an address", shown(m.HostIP))
			}
			p.HostIP = ip.Unmap()
		}
		if !listed[p.String()] { // as with addresses, duplicates are allowed
			listed[p.String()] = true
			all = append(all, p)
		}
	}
	return all, api.CheckPorts(all)
}
