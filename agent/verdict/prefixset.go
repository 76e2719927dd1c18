package verdict

import "net/netip"

// prefixSet finds overlaps in a few look-ups, however many prefixes it holds: a
// store can be filled with networks. The zero prefixSet is not usable.
type prefixSet struct {
	exact  map[netip.Prefix]string // what was added, with its name
	within map[netip.Prefix]string // every prefix that holds one of them
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

// overlapping gives the name of one that overlaps p.
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

// containing gives the name of one that holds an address.
func (s *prefixSet) containing(a netip.Addr) (name string, ok bool) {
	return s.overlapping(netip.PrefixFrom(a, a.BitLen()))
}
