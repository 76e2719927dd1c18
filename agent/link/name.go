package link

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Prefixes of the interfaces that this project makes on a host. A prefix and
// 11 hex digits fill 14 of the 15 bytes that the kernel allows (IFNAMSIZ less
// the terminating NUL).
const (
	HostPrefix    = "spv" // the host's end of an endpoint's veth pair
	PeerPrefix    = "spp" // the container's end, until it is moved and renamed
	GatewayPrefix = "spg" // a network's gateway port
)

// hashDigits is 44 bits: with 10,000 endpoints on one host the odds of two
// with the same name are 1 in 350,000.
const hashDigits = 11

// HostName is the name of the host's end for an endpoint id.
func HostName(id string) string { return HostPrefix + digits(id) }

// PeerName is the temporary name of the container's end for an endpoint id.
func PeerName(id string) string { return PeerPrefix + digits(id) }

// GatewayName is the name of a network's gateway port.
func GatewayName(network string) string { return GatewayPrefix + digits(network) }

func digits(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])[:hashDigits]
}

// hostOf gives the host end's name for one that PeerName made.
func hostOf(peer string) (string, bool) {
	rest, ours := strings.CutPrefix(peer, PeerPrefix)
	return HostPrefix + rest, ours && len(rest) == hashDigits
}

// checkName refuses what the kernel's dev_valid_name refuses, and '%', which
// makes the kernel choose a name.
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
