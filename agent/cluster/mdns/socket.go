package mdns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// port and group are the port and address of Multicast DNS over IPv4 (RFC 6762, section
// 3).
const port = 5353

var group = netip.AddrFrom4([4]byte{224, 0, 0, 251})

// socket sends to and receives from the segment of one interface.
type socket struct {
	conn  net.PacketConn
	send4 *ipv4.PacketConn
	index int
	addr  netip.Addr     // this host's address
	link  []netip.Prefix // prefixes of the segment
}

// open joins the multicast group on an interface. The socket is bound to the group
// address. It therefore receives only multicast from this interface, and takes no unicast
// answers from another responder on this host with the same port (avahi,
// systemd-resolved).
func open(iface string, addr netip.Addr) (*socket, error) {
	ifi, err := net.InterfaceByName(iface)
	if err != nil {
		return nil, fmt.Errorf("mDNS on %s: %w", iface, err)
	}
	if ifi.Flags&net.FlagMulticast == 0 {
		return nil, fmt.Errorf("mDNS on %s: the interface knows no multicast", iface)
	}
	link, err := onLink(ifi)
	if err != nil {
		return nil, fmt.Errorf("mDNS on %s: addresses: %w", iface, err)
	}
	conn, err := listen(ifi.Index, addr)
	if err != nil {
		return nil, fmt.Errorf("mDNS on %s: %w", iface, err)
	}
	return &socket{conn: conn, send4: ipv4.NewPacketConn(conn), index: ifi.Index, addr: addr, link: link}, nil
}

// stillThere returns an error unless the interface is still the one that the socket was
// opened for.
func (s *socket) stillThere(iface string) error {
	ifi, err := net.InterfaceByName(iface)
	if err != nil {
		return fmt.Errorf("mDNS on %s: %w", iface, err)
	}
	if ifi.Index != s.index {
		return fmt.Errorf("mDNS on %s: the interface is another now", iface)
	}
	return nil
}

func onLink(ifi *net.Interface) ([]netip.Prefix, error) {
	addrs, err := ifi.Addrs()
	if err != nil {
		return nil, err
	}
	var link []netip.Prefix
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			link = append(link, p.Masked())
		}
	}
	return link, nil
}

// listen creates the socket with system calls, because package net binds a multicast
// socket to all addresses of the host.
func listen(index int, addr netip.Addr) (net.PacketConn, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "mdns")
	defer f.Close() // FilePacketConn duplicates the descriptor
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0), // multicast of this interface only
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, 255),
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, 255),
		unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Address: addr.As4(), Ifindex: int32(index)}),
		unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreqn{Multiaddr: group.As4(), Ifindex: int32(index)}),
	)
	if err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: group.As4()}); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	return net.FilePacketConn(f)
}

// receive returns the next message that is about Service and comes from another host on
// the segment. The error is that of the socket.
func (s *socket) receive(buf []byte) (message, netip.AddrPort, error) {
	for {
		n, from, err := s.conn.ReadFrom(buf)
		if err != nil {
			return message{}, netip.AddrPort{}, err
		}
		udp, ok := from.(*net.UDPAddr)
		if !ok {
			continue
		}
		src := udp.AddrPort()
		src = netip.AddrPortFrom(src.Addr().Unmap(), src.Port())
		if !s.neighbour(src.Addr()) {
			continue
		}
		if m, err := read(buf[:n]); err == nil {
			return m, src, nil
		}
	}
}

// neighbour reports whether a is the address of another host on the segment.
func (s *socket) neighbour(a netip.Addr) bool {
	if a == s.addr || !a.IsGlobalUnicast() && !a.IsLinkLocalUnicast() {
		return false
	}
	for _, p := range s.link {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// sendAll sends a packet to the multicast group.
func (s *socket) sendAll(packet []byte) error { return s.send(packet, netip.AddrPortFrom(group, port)) }

func (s *socket) send(packet []byte, to netip.AddrPort) error {
	_, err := s.send4.WriteTo(packet, &ipv4.ControlMessage{IfIndex: s.index, Src: s.addr.AsSlice()}, net.UDPAddrFromAddrPort(to))
	return err
}

func (s *socket) close() { _ = s.conn.Close() }
