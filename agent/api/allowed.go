package api

import (
	"cmp"
	"net/netip"
	"slices"
)

// MaxAllowed bounds the addresses that an endpoint may have beside its own.
const MaxAllowed = 16

// neverAllowed are ranges in which no container has an address.
var neverAllowed = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("224.0.0.0/3"),
	// Where clouds serve what a machine was made with: Azure, Alibaba, Oracle.
	netip.MustParsePrefix("168.63.129.16/32"), netip.MustParsePrefix("100.100.100.200/32"), netip.MustParsePrefix("192.0.0.192/32"),
}

// ParseAllowed reads addresses that an endpoint may have beside its own: each an IPv4
// address, or a prefix with host bits zero. It gives them sorted, each once. Whether
// they fit a network is not looked at here.
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

// CheckAllowed says whether any endpoint can be allowed a prefix.
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

// ShowAllowed writes an allowed address as people do: a single one without its length.
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

// Drops counts the packets that the switch dropped of what an endpoint sent, since
// its interface was made or the switch was started, by cause.
type Drops map[string]uint64
