package link

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Prefixes of the interfaces that this project creates on a host. A prefix and 11 hex
// digits take 14 of the 15 bytes that the kernel allows (IFNAMSIZ less the terminating
// NUL).
const (
	HostPrefix    = "spv" // the host end of an endpoint's veth pair
	PeerPrefix    = "spp" // the container end, until it is moved and renamed
	GatewayPrefix = "spg" // a network's gateway port
)

// hashDigits is 11 hex digits, or 44 bits. With 10,000 endpoints on one host, the
// probability that two have the same name is 1 in 350,000.
const hashDigits = 11

// HostName returns the name of an endpoint's host end.
func HostName(id string) string { return HostPrefix + digits(id) }

// PeerName returns the temporary name of an endpoint's container end.
func PeerName(id string) string { return PeerPrefix + digits(id) }

// GatewayName returns the name of a network's gateway port.
func GatewayName(network string) string { return GatewayPrefix + digits(network) }

func digits(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])[:hashDigits]
}

// hostOf returns the host end's name for a name from PeerName.
func hostOf(peer string) (string, bool) {
	rest, ours := strings.CutPrefix(peer, PeerPrefix)
	return HostPrefix + rest, ours && len(rest) == hashDigits
}

// checkName rejects the names that the kernel's dev_valid_name rejects. It also rejects
// '%', which makes the kernel choose a name.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("interface name is empty")
	case len(name) >= unix.IFNAMSIZ:
		return fmt.Errorf("interface name %.40q is longer than %d bytes", name, unix.IFNAMSIZ-1)
	case name == "." || name == "..":
		return fmt.Errorf("interface name %q is not allowed", name)
	case strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == '/' || r == ':' || r == '%' || r > '~' }):
		return fmt.Errorf("interface name %q holds a character that is not allowed", name)
	}
	return nil
}
