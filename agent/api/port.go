package api

import (
	"fmt"
	"net/netip"
)

// MaxPorts bounds the published ports of one endpoint.
const MaxPorts = 256

// Protocols of a published port.
const (
	ProtoTCP = "tcp"
	ProtoUDP = "udp"
)

// PortMapping publishes a port of an endpoint on its host.
type PortMapping struct {
	Proto         string     `json:"proto"`               // tcp or udp
	HostIP        netip.Addr `json:"host_ip,omitzero"`    // IPv4; the zero Addr or 0.0.0.0 means every address of the host
	HostPort      uint16     `json:"host_port,omitempty"` // 0: the agent selects a free one
	ContainerPort uint16     `json:"container_port"`
}

// String formats a mapping like Docker: 0.0.0.0:8080->80/tcp.
func (p PortMapping) String() string {
	ip := p.HostIP
	if !ip.IsValid() {
		ip = netip.IPv4Unspecified()
	}
	return fmt.Sprintf("%s:%d->%d/%s", ip, p.HostPort, p.ContainerPort, p.Proto)
}

// CheckPorts returns an error if ports cannot be published.
func CheckPorts(ports []PortMapping) error {
	if len(ports) > MaxPorts {
		return Errorf(CodeInvalid, "%d published ports are too many; %d is the most", len(ports), MaxPorts)
	}
	for _, p := range ports {
		switch {
		case p.Proto != ProtoTCP && p.Proto != ProtoUDP:
			return Errorf(CodeInvalid, "protocol %s of a published port is neither tcp nor udp", shown(p.Proto))
		case p.ContainerPort == 0:
			return Errorf(CodeInvalid, "a published port needs the container's port, 1 to 65535")
		case p.HostIP.IsValid() && !p.HostIP.Is4():
			return Errorf(CodeInvalid, "host address %s of a published port is not IPv4", shown(p.HostIP.String()))
		case p.HostIP.IsMulticast() || p.HostIP == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			return Errorf(CodeInvalid, "host address %s of a published port cannot be a host's", p.HostIP)
		}
	}
	return nil
}
