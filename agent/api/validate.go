package api

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
)

// MaxNameLen bounds names of networks and ids of endpoints, in bytes. 64 is also the
// length of a Docker container id in hex.
const MaxNameLen = 64

var namePattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// reservedNetworks are names with a special meaning in Docker. socketplane is Docker's
// name for our default network.
var reservedNetworks = map[string]bool{"bridge": true, "host": true, "none": true, "socketplane": true}

// CheckNetworkName returns an error if s cannot be the name of a new network.
func CheckNetworkName(s string) error {
	if err := checkName("network name", s); err != nil {
		return err
	}
	if reservedNetworks[s] {
		return Errorf(CodeInvalid, "network name %q is reserved by Docker; choose another", s)
	}
	return nil
}

// CheckNetworkRef returns an error if s cannot refer to an existing network. Unlike
// CheckNetworkName it accepts Docker's names, so that they are "not found".
func CheckNetworkRef(s string) error { return checkName("network name", s) }

// checkEndpointRef returns an error if s cannot be an id, a prefix of one, or a container
// name.
func checkEndpointRef(s string) error {
	if s == "" {
		return Errorf(CodeInvalid, "container is empty; give its id or name")
	}
	return CheckContainerName(s)
}

// CheckEndpointID returns an error if s cannot be the id of an endpoint.
func CheckEndpointID(s string) error { return checkName("id", s) }

// CheckContainerName returns an error if s cannot be the name of a container. The empty
// name is valid.
func CheckContainerName(s string) error {
	if s == "" {
		return nil
	}
	if len(s) > 253 { // a DNS name, RFC 1035
		return Errorf(CodeInvalid, "container name %s is %d bytes long; 253 is the most", shown(s), len(s))
	}
	if !namePattern.MatchString(s) {
		return Errorf(CodeInvalid, "container name %s may hold only letters, digits, '_', '.' and '-', and begins with a letter or digit", shown(s))
	}
	return nil
}

func checkName(what, s string) error {
	switch {
	case s == "":
		return Errorf(CodeInvalid, "%s is empty; give 1 to %d letters, digits, '_', '.' or '-'", what, MaxNameLen)
	case len(s) > MaxNameLen:
		return Errorf(CodeInvalid, "%s %s is %d bytes long; %d is the most", what, shown(s), len(s), MaxNameLen)
	case !namePattern.MatchString(s) || strings.Contains(s, ".."):
		return Errorf(CodeInvalid, "%s %s may hold only letters, digits, '_', '.' and '-', and begins with a letter or digit", what, shown(s))
	}
	return nil
}

// ParseSubnet parses the subnet of a network: IPv4, /8 to /30, host bits zero.
func ParseSubnet(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, Errorf(CodeInvalid, "subnet %s is not a CIDR; write it like 10.6.0.0/16", shown(s))
	}
	a := p.Addr()
	switch {
	case !a.Is4():
		return netip.Prefix{}, Errorf(CodeInvalid, "subnet %s is not IPv4; networks are IPv4, write it like 10.6.0.0/16", shown(s))
	case p.Masked() != p:
		return netip.Prefix{}, Errorf(CodeInvalid, "subnet %s has host bits set; did you mean %s?", shown(s), p.Masked())
	case p.Bits() > 30:
		return netip.Prefix{}, Errorf(CodeInvalid, "subnet %s has no room for a gateway and a container; /30 is the smallest", shown(s))
	case p.Bits() < 8:
		return netip.Prefix{}, Errorf(CodeInvalid, "subnet %s is too large; /8 is the largest", shown(s))
	case a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() || a.As4()[0] == 0 || a.As4()[0] >= 224:
		return netip.Prefix{}, Errorf(CodeInvalid, "subnet %s cannot hold unicast addresses (loopback, link-local, multicast or reserved); use a private range (RFC 1918)", shown(s))
	}
	return p, nil
}

// ParseRange parses a part of a subnet: an IPv4 CIDR whose host bits are zero.
func ParseRange(s string, subnet netip.Prefix) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || !p.Addr().Is4():
		return netip.Prefix{}, Errorf(CodeInvalid, "range %s is not an IPv4 CIDR; write it like 10.6.128.0/17", shown(s))
	case p.Masked() != p:
		return netip.Prefix{}, Errorf(CodeInvalid, "range %s has host bits set; did you mean %s?", shown(s), p.Masked())
	case p.Bits() < subnet.Bits() || !subnet.Contains(p.Addr()):
		return netip.Prefix{}, Errorf(CodeInvalid, "range %s is not a part of subnet %s", shown(s), subnet)
	}
	return p, nil
}

// ParseCIDR parses a subnet whose host bits may be set, as programs of 2015 write it. It
// returns the subnet with host bits cleared, and the original address as the gateway. The
// gateway is the zero Addr if the host bits are zero.
func ParseCIDR(s string) (subnet netip.Prefix, gateway netip.Addr, err error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, netip.Addr{}, Errorf(CodeInvalid, "subnet %s is not a CIDR; write it like 10.6.0.0/16", shown(s))
	}
	if subnet, err = ParseSubnet(p.Masked().String()); err != nil {
		return netip.Prefix{}, netip.Addr{}, err
	}
	if p.Addr() != subnet.Addr() {
		gateway = p.Addr()
	}
	return subnet, gateway, nil
}

// ParseIP parses a requested IPv4 address.
func ParseIP(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() {
		return netip.Addr{}, Errorf(CodeInvalid, "address %s is not an IPv4 address; write it like 10.6.0.9", shown(s))
	}
	return a, nil
}

func checkAddress(s string) error {
	_, err := ParseIP(s)
	return err
}

// ParseMAC parses a requested MAC address: 48 bits, unicast, not zero. It returns the
// canonical form that is used for comparison.
func ParseMAC(s string) (string, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 || hw[0]&1 != 0 || bytes.Equal(hw, make([]byte, 6)) {
		return "", Errorf(CodeInvalid, "MAC address %s is not a unicast one; write it like 02:42:0a:06:00:09", shown(s))
	}
	return hw.String(), nil
}

// CheckIfName returns an error if s cannot name a network interface. A name has at most 15
// bytes (IFNAMSIZ). CheckIfName rejects every name that the kernel's dev_valid_name
// rejects.
func CheckIfName(s string) error {
	if s == "lo" {
		return Errorf(CodeInvalid, "interface name \"lo\" is the loopback interface's, which every namespace has; name another")
	}
	if s == "" || len(s) > 15 || s == "." || s == ".." || !namePattern.MatchString(s) {
		return Errorf(CodeInvalid, "interface name %s must be 1 to 15 letters, digits, '_', '.' or '-'", shown(s))
	}
	return nil
}

// shown quotes external text for a one-line message, and truncates it to 80 bytes.
func shown(s string) string {
	if len(s) > 80 {
		return fmt.Sprintf("%q...", s[:80])
	}
	return fmt.Sprintf("%q", s)
}
