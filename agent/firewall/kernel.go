package firewall

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// present is the table in the kernel.
type present struct {
	exists bool
	chains map[string]*presentChain
	hosts  *nftables.Set // nil if there is none
}

type presentChain struct {
	*nftables.Chain
	comments []string // of its rules, in order
}

// read reads the table. A missing table is no error.
func read(nft *nftables.Conn) (present, error) {
	tables, err := nft.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if errors.Is(err, unix.ENOENT) {
		return present{}, nil
	}
	if err != nil {
		return present{}, fmt.Errorf("list tables: %w", err)
	}
	if !slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == tableName }) {
		return present{}, nil
	}
	p := present{exists: true, chains: map[string]*presentChain{}}
	chains, err := nft.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return p, fmt.Errorf("list chains: %w", err)
	}
	for _, c := range chains {
		if c.Table.Name != tableName {
			continue
		}
		rules, err := nft.GetRules(table(), c)
		if err != nil {
			return p, fmt.Errorf("list the rules of %q: %w", c.Name, err)
		}
		have := &presentChain{Chain: c}
		for _, r := range rules {
			comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
			have.comments = append(have.comments, comment)
		}
		p.chains[c.Name] = have
	}
	if p.hosts, err = nft.GetSetByName(table(), hostsSet); errors.Is(err, unix.ENOENT) {
		p.hosts, err = nil, nil
	}
	if err != nil {
		return p, fmt.Errorf("look up set %q: %w", hostsSet, err)
	}
	return p, nil
}

// same reports whether the chains and rules are the wanted ones.
func (p present) same(want []chain) bool {
	if !p.exists || p.hosts == nil || len(p.chains) != len(want) {
		return false
	}
	for _, w := range want {
		have := p.chains[w.name]
		if have == nil || !have.hooked(w) || len(have.comments) != len(w.rules) {
			return false
		}
		for i, r := range w.rules {
			if have.comments[i] != r.comment {
				return false
			}
		}
	}
	return true
}

// hooked reports whether a chain has the wanted hook and priority, and the policy accept.
func (c *presentChain) hooked(want chain) bool {
	if want.hook == nil {
		return c.Hooknum == nil
	}
	return c.Hooknum != nil && *c.Hooknum == *want.hook && c.Priority != nil && *c.Priority == want.priority &&
		(c.Policy == nil || *c.Policy == nftables.ChainPolicyAccept)
}

// replace replaces the table in one transaction.
func replace(nft *nftables.Conn, want []chain, hosts []netip.Addr) error {
	nft.AddTable(table()) // DelTable requires one
	nft.DelTable(table())
	t := nft.AddTable(table())
	set := newHostsSet(t)
	if err := nft.AddSet(set, nil); err != nil {
		return fmt.Errorf("add set %q: %w", hostsSet, err)
	}
	for part := range slices.Chunk(elements(hosts), maxElements) {
		if err := nft.SetAddElements(set, part); err != nil {
			return fmt.Errorf("add to set %q: %w", hostsSet, err)
		}
	}
	accept := nftables.ChainPolicyAccept
	for _, c := range want {
		chain := &nftables.Chain{Name: c.name, Table: t}
		if c.hook != nil {
			chain.Type, chain.Hooknum, chain.Priority, chain.Policy = nftables.ChainTypeFilter, c.hook, &c.priority, &accept
		}
		nft.AddChain(chain)
		for _, r := range c.rules {
			nft.AddRule(&nftables.Rule{
				Table: t, Chain: chain, Exprs: r.exprs,
				UserData: userdata.AppendString(nil, userdata.TypeComment, r.comment),
			})
		}
	}
	if err := nft.Flush(); err != nil {
		return fmt.Errorf("write table %q: %w", tableName, err)
	}
	return nil
}

// updateHosts adds and removes the hosts that differ in the set.
func updateHosts(nft *nftables.Conn, have present, hosts []netip.Addr) error {
	there, err := nft.GetSetElements(have.hosts)
	if err != nil {
		return fmt.Errorf("list set %q: %w", hostsSet, err)
	}
	wanted := map[netip.Addr]bool{}
	for _, h := range hosts {
		wanted[h] = true
	}
	var gone []netip.Addr
	for _, e := range there {
		addr, ok := netip.AddrFromSlice(e.Key)
		if ok && !wanted[addr] {
			gone = append(gone, addr)
		}
		delete(wanted, addr)
	}
	for part := range slices.Chunk(elements(slices.Collect(maps.Keys(wanted))), maxElements) {
		if err := nft.SetAddElements(have.hosts, part); err != nil {
			return fmt.Errorf("add to set %q: %w", hostsSet, err)
		}
	}
	for part := range slices.Chunk(elements(gone), maxElements) {
		if err := nft.SetDeleteElements(have.hosts, part); err != nil {
			return fmt.Errorf("remove from set %q: %w", hostsSet, err)
		}
	}
	if len(wanted) == 0 && len(gone) == 0 {
		return nil
	}
	if err := nft.Flush(); err != nil {
		return fmt.Errorf("change set %q: %w", hostsSet, err)
	}
	return nil
}

// maxElements limits the elements of one message. The length of the attribute that holds
// them has 16 bits, and one element takes 24 bytes.
const maxElements = 1000

func elements(hosts []netip.Addr) []nftables.SetElement {
	hosts = slices.Clone(hosts)
	slices.SortFunc(hosts, netip.Addr.Compare)
	var all []nftables.SetElement
	for _, h := range slices.Compact(hosts) {
		all = append(all, nftables.SetElement{Key: h.AsSlice()})
	}
	return all
}
