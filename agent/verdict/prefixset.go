package verdict

import "net/netip"

// prefixSet finds overlaps in a few lookups, however many prefixes it holds, because
// somebody can fill the store with networks. The zero prefixSet is not usable.
type prefixSet struct {
	exact  map[netip.Prefix]string // added prefixes, with their names
	within map[netip.Prefix]string // every prefix that contains an added one
}

func newPrefixSet() *prefixSet {
	return &prefixSet{exact: map[netip.Prefix]string{}, within: map[netip.Prefix]string{}}
}

func (s *prefixSet) add(p netip.Prefix, name string) {
	if !p.IsValid() {
		return
	}
	s.exact[p.Masked()] = name
	for bits := p.Bits(); bits >= 0; bits-- {
		s.within[netip.PrefixFrom(p.Addr(), bits).Masked()] = name
	}
}

// overlapping returns the name of a prefix that overlaps p.
func (s *prefixSet) overlapping(p netip.Prefix) (name string, ok bool) {
	if name, ok := s.within[p.Masked()]; ok {
		return name, true
	}
	for bits := p.Bits() - 1; bits >= 0; bits-- {
		if name, ok := s.exact[netip.PrefixFrom(p.Addr(), bits).Masked()]; ok {
			return name, true
		}
	}
	return "", false
}

// containing returns the name of a prefix that contains an address.
func (s *prefixSet) containing(a netip.Addr) (name string, ok bool) {
	return s.overlapping(netip.PrefixFrom(a, a.BitLen()))
}
