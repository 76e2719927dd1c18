package api

import (
	"cmp"
	"net/netip"
	"slices"
)

// MaxAllowed bounds the addresses that an endpoint may use beside its own.
const MaxAllowed = 16

// neverAllowed lists the ranges that never contain a container's address.
var neverAllowed = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("224.0.0.0/3"),
	// Metadata and platform services of clouds: Azure, Alibaba, Oracle.
	netip.MustParsePrefix("168.63.129.16/32"), netip.MustParsePrefix("100.100.100.200/32"), netip.MustParsePrefix("192.0.0.192/32"),
}

// ParseAllowed parses the addresses that an endpoint may use beside its own. Each is an
// IPv4 address or a prefix whose host bits are zero. The result is sorted and has no
// duplicates. ParseAllowed does not check whether the addresses fit a network.
func ParseAllowed(list []string) ([]netip.Prefix, error) {
	if len(list) > MaxAllowed {
		return nil, Errorf(CodeInvalid, "%d allowed addresses are more than the %d that an endpoint can have; allow a prefix instead", len(list), MaxAllowed)
	}
	var all []netip.Prefix
	for _, s := range list {
		p, err := parseAllowed(s)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return slices.Compact(all), nil
}

func parseAllowed(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if addr, addrErr := netip.ParseAddr(s); addrErr == nil && addr.Zone() == "" {
		p, err = netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	if err != nil || !p.Addr().Is4() {
		return p, Errorf(CodeInvalid, "allowed address %s is neither an IPv4 address nor a prefix; write it like 10.6.0.200 or 10.6.0.192/28", shown(s))
	}
	if p.Masked() != p {
		return p, Errorf(CodeInvalid, "allowed prefix %s has host bits set; did you mean %s, or the address %s?", shown(s), p.Masked(), p.Addr())
	}
	return p, CheckAllowed(p)
}

// CheckAllowed returns an error if no endpoint can be allowed the prefix p.
func CheckAllowed(p netip.Prefix) error {
	if !p.IsValid() || !p.Addr().Is4() || p.Masked() != p {
		return Errorf(CodeInvalid, "allowed prefix %s is no IPv4 prefix", p)
	}
	if p.Bits() < 8 {
		return Errorf(CodeInvalid, "allowed prefix %s is too large; /8 is the largest", p)
	}
	for _, never := range neverAllowed {
		if never.Overlaps(p) {
			return Errorf(CodeInvalid, "allowed address %s cannot be a container's: %s is not for unicast, or a cloud answers there; leave it out", ShowAllowed(p), never)
		}
	}
	return nil
}

// ShowAllowed formats an allowed address. It omits the length of a single address.
func ShowAllowed(p netip.Prefix) string {
	if p.IsValid() && p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// AllowedText is the inverse of ParseAllowed.
func AllowedText(list []netip.Prefix) []string {
	var all []string
	for _, p := range list {
		all = append(all, ShowAllowed(p))
	}
	return all
}

// Drops counts, by cause, the packets of an endpoint that the switch dropped. The count
// starts when the endpoint's interface is created or the switch starts.
type Drops map[string]uint64
