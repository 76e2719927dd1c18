package link

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Addresses returns the IPv4 addresses of this host with their prefix lengths, sorted,
// without those of our own gateway ports. Networks must not overlap them, and no other
// host can have them.
func (l *Links) Addresses(ctx context.Context) ([]netip.Prefix, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c, err := l.acquire()
	if err != nil {
		return nil, err
	}
	defer l.release(c)
	links, err := c.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	ours := map[int]bool{}
	for _, link := range links {
		if strings.HasPrefix(link.Attrs().Name, GatewayPrefix) {
			ours[link.Attrs().Index] = true
		}
	}
	addrs, err := c.addrsOf(nil)
	if err != nil {
		return nil, err
	}
	var all []netip.Prefix
	for _, a := range addrs {
		if p := prefixOf(a.IPNet); p.IsValid() && !ours[a.LinkIndex] {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	return slices.Compact(all), nil
}
