package link

import (
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// ingressTable is the nftables table of family netdev that holds one chain for
// each deaf host end. The chains go after their links; the table stays.
const ingressTable = "socketplane"

// ingressPriority puts the drop before every other ingress chain (the values
// are those of the IPv4 hooks; conntrack's defragmentation is at -400).
const ingressPriority = nftables.ChainPriority(-500)

// sweepDelay is how long chains of deleted links may stay.
const sweepDelay = 2 * time.Second

// ingress adds and removes the chains. Removing one costs 12 ms of waiting in
// the kernel, and whoever makes a link meanwhile waits too; one or a hundred
// are the same. A chain whose link is gone harms nobody. So those of deleted
// links are removed a little later, together.
type ingress struct {
	change sync.Mutex // held over each change: a chain that is wanted again is not swept away

	mu    sync.Mutex
	stale map[string]bool // links that were deleted, whose chains may still be there
	timer *time.Timer     // of the next sweep; nil: none is due
}

// deafen keeps the kernel from hearing a host's end. A switch in user space
// gets its copy of each frame through AF_PACKET, which comes before the
// ingress hook; without the drop the kernel would handle the frame too, and
// answer ARP for addresses of the host. It must never be done where the
// kernel's switch forwards: its rx_handler comes after the hook.
//
// What quietSysctls sets says much the same, and stays when somebody flushes all
// nftables. Where nftables cannot do it, that alone must do.
func (l *Links) deafen(host string) {
	in := &l.ingress
	in.change.Lock()
	defer in.change.Unlock()
	in.mu.Lock()
	delete(in.stale, host)
	in.mu.Unlock()
	if err := addIngressDrops(host); err != nil {
		l.log.Warn("no ingress chain; the kernel hears a container", "port", host, "err", err)
	}
}

func addIngressDrops(hosts ...string) error {
	nft, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	table := nft.AddTable(&nftables.Table{Name: ingressTable, Family: nftables.TableFamilyNetdev})
	drop, priority := nftables.ChainPolicyDrop, ingressPriority
	for _, host := range hosts {
		nft.AddChain(&nftables.Chain{
			Name: host, Table: table, Type: nftables.ChainTypeFilter, Policy: &drop,
			Hooknum: nftables.ChainHookIngress, Priority: &priority, Device: host,
		})
	}
	if err := nft.Flush(); err != nil {
		return fmt.Errorf("add ingress chains of %q: %w", hosts, err)
	}
	return nil
}

// ingressChains lists our chains with their policies. A kernel without nftables,
// or its netdev family, has none.
func ingressChains(nft *nftables.Conn) (map[string]*nftables.Chain, error) {
	chains, err := nft.ListChainsOfTableFamily(nftables.TableFamilyNetdev)
	for _, none := range []error{unix.ENOENT, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT} {
		if errors.Is(err, none) {
			return nil, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list ingress chains: %w", err)
	}
	ours := map[string]*nftables.Chain{}
	for _, c := range chains {
		if c.Table.Name == ingressTable {
			ours[c.Name] = c
		}
	}
	return ours, nil
}

// undeafen removes the chain of a host's end that lives on; none is success.
func (l *Links) undeafen(host string) error {
	l.ingress.change.Lock()
	defer l.ingress.change.Unlock()
	return removeChains(func(name string) bool { return name == host })
}

// forget has the chain of a deleted host's end removed by the next sweep.
func (l *Links) forget(host string) {
	in := &l.ingress
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.stale == nil {
		in.stale = map[string]bool{}
	}
	in.stale[host] = true
	if in.timer == nil {
		in.timer = time.AfterFunc(sweepDelay, l.sweep)
	}
}

// sweep removes all stale chains.
func (l *Links) sweep() {
	in := &l.ingress
	in.change.Lock()
	defer in.change.Unlock()
	in.mu.Lock()
	stale := in.stale
	in.stale = nil
	if in.timer != nil {
		in.timer.Stop()
		in.timer = nil
	}
	in.mu.Unlock()
	if len(stale) == 0 {
		return
	}
	if err := removeChains(func(name string) bool { return stale[name] }); err != nil {
		l.log.Warn("ingress chains of deleted links are left", "err", err)
	}
}

// removeChains removes, in one step, those of our chains that are doomed.
func removeChains(doomed func(name string) bool) error {
	nft, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	// Only what is there is removed: one that is not would fail them all.
	chains, err := ingressChains(nft)
	if err != nil {
		return err
	}
	maps.DeleteFunc(chains, func(name string, _ *nftables.Chain) bool { return !doomed(name) })
	if len(chains) == 0 {
		return nil
	}
	for _, c := range chains {
		nft.DelChain(c)
	}
	if err := nft.Flush(); err != nil {
		return fmt.Errorf("remove %d ingress chains: %w", len(chains), err)
	}
	return nil
}
