package cli

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/docker/go-connections/nat"
	"github.com/socketplane/socketplane/agent/api"
)

const publishExample = "write it like 8080:80, 127.0.0.1:8080:80/udp or 8000-8002:8000-8002"

// parsePublish parses a value of -p in any of Docker's forms.
func parsePublish(spec string) ([]api.PortMapping, error) {
	// Before any message repeats it.
	if len(spec) > maxPublish || strings.ContainsFunc(spec, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, usagef("-p %.60q is not a port; %s", spec, publishExample)
	}
	if strings.Contains(spec, "=") {
		short, err := shortPublish(spec)
		if err != nil {
			return nil, err
		}
		spec = short
	}
	parsed, err := nat.ParsePortSpec(spec)
	if err != nil {
		return nil, usagef("-p %q: %w; %s", spec, err, publishExample)
	}
	if len(parsed) > api.MaxPorts {
		return nil, usagef("-p %q publishes %d ports; %d is the most", spec, len(parsed), api.MaxPorts)
	}
	ports := make([]api.PortMapping, 0, len(parsed))
	for _, m := range parsed {
		p := api.PortMapping{Proto: m.Port.Proto(), ContainerPort: uint16(m.Port.Int())}
		if m.Binding.HostPort != "" {
			host, err := nat.ParsePort(m.Binding.HostPort)
			if err != nil {
				return nil, usagef("-p %q: one port of the host leads to one port of the container; give one host port, or none for any free port", spec)
			}
			p.HostPort = uint16(host)
		}
		if ip := m.Binding.HostIP; ip != "" {
			if p.HostIP, err = netip.ParseAddr(ip); err != nil {
				return nil, usagef("-p %q: %q is not an address; %s", spec, ip, publishExample)
			}
		}
		ports = append(ports, p)
	}
	return ports, api.CheckPorts(ports)
}

// maxPublish bounds a value of -p, in bytes. The longest valid value is below 60.
const maxPublish = 128

// shortPublish converts Docker's long form, target=80,published=8080,protocol=udp, to the
// short form.
func shortPublish(spec string) (string, error) {
	var target, published, proto string
	for field := range strings.SplitSeq(spec, ",") {
		key, value, _ := strings.Cut(field, "=")
		switch strings.ToLower(strings.TrimSpace(key)) {
		case "target":
			target = value
		case "published":
			published = value
		case "protocol":
			proto = value
		case "mode": // host or ingress: no difference on one host
		default:
			return "", usagef("-p %.100q: %.40q is not one of target, published, protocol, mode; %s", spec, key, publishExample)
		}
	}
	short := target
	if published != "" {
		short = published + ":" + target
	}
	if proto != "" {
		short += "/" + proto
	}
	return short, nil
}

// withExposed adds the exposed ports that are not published yet. Each gets a free port of
// the host.
func withExposed(ports, exposed []api.PortMapping) []api.PortMapping {
	all := slices.Clone(ports)
	for _, e := range exposed {
		if !slices.ContainsFunc(ports, func(p api.PortMapping) bool { return p.Proto == e.Proto && p.ContainerPort == e.ContainerPort }) {
			all = append(all, e)
		}
	}
	return all
}

// publishedText formats published ports for people.
func publishedText(ports []api.PortMapping) string {
	texts := make([]string, 0, len(ports))
	for _, p := range ports {
		text := p.String()
		if p.HostPort == 0 { // it has none while the container is stopped
			text = fmt.Sprintf("%d/%s", p.ContainerPort, p.Proto)
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, ", ")
}
