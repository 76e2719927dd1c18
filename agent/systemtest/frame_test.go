package systemtest

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// station is who sends or receives a frame: a MAC and an IPv4 address.
type station struct {
	mac net.HardwareAddr
	ip  netip.Addr
}

var (
	everybody = station{net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, netip.AddrFrom4([4]byte{255, 255, 255, 255})}
	nobody    = station{net.HardwareAddr{0x02, 0x42, 0xde, 0xad, 0xbe, 0xef}, netip.IPv4Unspecified()}
)

// at is the same machine with another address, as is another machine with the same.
func (s station) at(ip netip.Addr) station { return station{s.mac, ip} }

func (s station) as(mac net.HardwareAddr) station { return station{mac, s.ip} }

// station is what the container is known as.
func (c container) station(t testing.TB) station {
	t.Helper()
	e := info(t, c.host, c.name)
	return stationOf(t, e.MAC, e.IP)
}

func stationOf(t testing.TB, mac, ip string) station {
	t.Helper()
	m, err := net.ParseMAC(mac)
	if err != nil {
		t.Fatal(err)
	}
	return station{m, netip.MustParseAddr(ip)}
}

// ethernet puts a payload into a frame, padded to Ethernet's least size.
func ethernet(src, dst net.HardwareAddr, etherType uint16, payload []byte) []byte {
	f := slices.Concat(dst, src, binary.BigEndian.AppendUint16(nil, etherType), payload)
	for len(f) < 60 {
		f = append(f, 0)
	}
	return f
}

// ipv4 makes a packet with a right header checksum (RFC 791).
func ipv4(src, dst netip.Addr, protocol byte, payload []byte) []byte {
	h := make([]byte, 20, 20+len(payload))
	h[0], h[8], h[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
	copy(h[12:], src.AsSlice())
	copy(h[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(h[10:], checksum(h))
	return append(h, payload...)
}

// checksum is the Internet's (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for len(b) >= 2 {
		sum += uint32(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// udp makes a datagram without a checksum, which IPv4 allows.
func udp(port uint16, payload []byte) []byte {
	h := make([]byte, 8, 8+len(payload))
	binary.BigEndian.PutUint16(h, 40000)
	binary.BigEndian.PutUint16(h[2:], port)
	binary.BigEndian.PutUint16(h[4:], uint16(8+len(payload)))
	return append(h, payload...)
}

// datagram is a UDP frame that holds a mark.
func datagram(src, dst station, mark string) []byte {
	return ethernet(src.mac, dst.mac, unix.ETH_P_IP, ipv4(src.ip, dst.ip, unix.IPPROTO_UDP, udp(9, []byte(mark))))
}

// The two kinds of ARP packet (RFC 826).
const (
	arpRequest = 1
	arpReply   = 2
)

// arp is an ARP frame that claims that sender is what it says, with a mark in its padding.
func arp(src, dst net.HardwareAddr, op uint16, sender, target station, mark string) []byte {
	p := []byte{0, 1, 8, 0, 6, 4}
	p = binary.BigEndian.AppendUint16(p, op)
	p = slices.Concat(p, sender.mac, sender.ip.AsSlice(), target.mac, target.ip.AsSlice(), []byte(mark))
	return ethernet(src, dst, unix.ETH_P_ARP, p)
}

// ipv6 is an IPv6 frame with a mark behind its payload, and for ICMPv6 with a
// right checksum (RFC 8200, section 8.1).
func ipv6(srcMAC, dstMAC net.HardwareAddr, src, dst string, next byte, payload []byte, mark string) []byte {
	from, to := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	payload = append(slices.Clone(payload), mark...)
	if next == unix.IPPROTO_ICMPV6 {
		pseudo := slices.Concat(from.AsSlice(), to.AsSlice(), binary.BigEndian.AppendUint32(nil, uint32(len(payload))), []byte{0, 0, 0, next})
		binary.BigEndian.PutUint16(payload[2:], checksum(append(pseudo, payload...)))
	}
	h := []byte{0x60, 0, 0, 0}
	h = binary.BigEndian.AppendUint16(h, uint16(len(payload)))
	h = append(h, next, 255)
	return ethernet(srcMAC, dstMAC, unix.ETH_P_IPV6, slices.Concat(h, from.AsSlice(), to.AsSlice(), payload))
}

// tag puts an 802.1Q header into a frame.
func tag(f []byte, vlan uint16) []byte {
	return slices.Concat(f[:12], []byte{0x81, 0}, binary.BigEndian.AppendUint16(nil, vlan), f[12:])
}

// encapsulate puts a frame into a VXLAN packet.
func encapsulate(src, dst station, vni uint32, inner []byte) []byte {
	h := binary.BigEndian.AppendUint32([]byte{0x08, 0, 0, 0}, vni<<8)
	return ethernet(src.mac, dst.mac, unix.ETH_P_IP, ipv4(src.ip, dst.ip, unix.IPPROTO_UDP, udp(vxlanPort, append(h, inner...))))
}
