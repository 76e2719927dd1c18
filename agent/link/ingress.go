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

// ingressTable is the nftables table of family netdev that holds the ingress chain of
// each host end of a userspace switch. The kernel removes a chain after its link; the
// table stays.
const ingressTable = "socketplane"

// ingressPriority puts the drop before every other ingress chain. The scale is that of
// the IPv4 hooks, where conntrack's defragmentation is at -400.
const ingressPriority = nftables.ChainPriority(-500)

// sweepDelay is how long the chain of a deleted link may stay.
const sweepDelay = 2 * time.Second

// ingress adds and removes the ingress chains. Removing one makes the kernel wait 12 ms,
// and blocks everyone who creates a link meanwhile. Removing a hundred takes the same
// time. A chain without its link does no harm, so sweep removes those of deleted links
// together after sweepDelay.
type ingress struct {
	change sync.Mutex // held over each change, so that sweep does not remove a chain that is wanted again

	mu    sync.Mutex
	stale map[string]bool // deleted links whose chains may still exist
	timer *time.Timer     // of the next sweep; nil if none is due
}

// deafen makes the kernel drop every frame from a host end after the switch has seen it.
// A userspace switch receives a copy of each frame through AF_PACKET, which runs before
// the ingress hook. Without the drop, the kernel would also process the frame and answer
// ARP for the host's addresses. Do not call it when the kernel forwards for the switch:
// the rx_handler of the kernel's switch runs after the hook.
//
// quietSysctls has much the same effect and survives a flush of all nftables rules. If
// nftables fails, it is the only protection.
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

// ingressChains returns our chains by name. It returns nil on a kernel without nftables
// or without its netdev family.
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

// undeafen removes the chain of an existing host end. It succeeds if there is none.
func (l *Links) undeafen(host string) error {
	l.ingress.change.Lock()
	defer l.ingress.change.Unlock()
	return removeChains(func(name string) bool { return name == host })
}

// forget schedules the chain of a deleted host end for the next sweep.
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

// removeChains removes those of our chains for which doomed returns true, in one
// transaction.
func removeChains(doomed func(name string) bool) error {
	nft, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	// Delete existing chains only: a missing one would fail the whole transaction.
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
