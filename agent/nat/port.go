package nat

import (
	"fmt"
	"net/netip"
)

// Port is a port of the host.
type Port struct {
	Proto    string     // tcp or udp
	HostIP   netip.Addr // IPv4; the zero Addr or 0.0.0.0 means every address of the host
	HostPort uint16     // 0 means any free port
}

func (p Port) String() string { return fmt.Sprintf("%s:%d/%s", p.hostIP(), p.HostPort, p.Proto) }

func (p Port) hostIP() netip.Addr {
	if !p.HostIP.IsValid() {
		return netip.IPv4Unspecified()
	}
	return p.HostIP
}

func (p Port) check() error {
	if p.Proto != "tcp" && p.Proto != "udp" || !p.hostIP().Is4() {
		return fmt.Errorf("published port %s is neither tcp nor udp over IPv4", p)
	}
	return nil
}

// Clashes reports whether different owners cannot hold the two ports.
func (p Port) Clashes(q Port) bool {
	a, b := p.hostIP(), q.hostIP()
	return p.Proto == q.Proto && p.HostPort == q.HostPort && p.HostPort != 0 && (a == b || a.IsUnspecified() || b.IsUnspecified())
}
