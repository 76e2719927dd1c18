package link

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// ingressTable is the nftables table of family netdev that holds one chain for
// each deaf host end. The chains go with their links; the table stays.
const ingressTable = "socketplane"

// ingressPriority puts the drop before every other ingress chain (the values
// are those of the IPv4 hooks; conntrack's defragmentation is at -400).
const ingressPriority = nftables.ChainPriority(-500)

// deafen keeps the kernel from hearing a host's end. A switch in user space
// gets its copy of each frame through AF_PACKET, which comes before the
// ingress hook; without the drop the kernel would handle the frame too, and
// answer ARP for addresses of the host. It must never be done where the
// kernel's switch forwards: its rx_handler comes after the hook.
//
// Where nftables cannot do it, the answers alone are turned off.
func (l *Links) deafen(host string) error {
	err := addIngressDrop(host)
	if err == nil {
		return nil
	}
	l.log.Warn("no ingress chain; only ARP answers are turned off", "port", host, "err", err)
	// 8: do not reply for all local addresses (Documentation/networking/ip-sysctl).
	return setSysctl("net/ipv4/conf/"+host+"/arp_ignore", "8")
}

func addIngressDrop(host string) error {
	nft, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	table := nft.AddTable(&nftables.Table{Name: ingressTable, Family: nftables.TableFamilyNetdev})
	drop, priority := nftables.ChainPolicyDrop, ingressPriority
	nft.AddChain(&nftables.Chain{
		Name: host, Table: table, Type: nftables.ChainTypeFilter, Policy: &drop,
		Hooknum: nftables.ChainHookIngress, Priority: &priority, Device: host,
	})
	if err := nft.Flush(); err != nil {
		return fmt.Errorf("add ingress chain of %q: %w", host, err)
	}
	return nil
}

// undeafen removes the chain of a host's end; none is success.
func undeafen(host string) error {
	nft, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	nft.DelChain(&nftables.Chain{
		Name:  host,
		Table: &nftables.Table{Name: ingressTable, Family: nftables.TableFamilyNetdev},
	})
	err = nft.Flush()
	// EOPNOTSUPP, EPROTONOSUPPORT: a kernel without nftables or its netdev family has no chain either.
	for _, none := range []error{unix.ENOENT, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT} {
		if errors.Is(err, none) {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("remove ingress chain of %q: %w", host, err)
	}
	return nil
}
