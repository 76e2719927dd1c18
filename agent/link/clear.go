package link

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Clear removes the veth pair of every endpoint and the nftables table with the ingress
// chains. It returns the number of pairs that it removed, which may be zero. It leaves
// gateway ports alone: they belong to the switch and disappear with its bridge.
func (l *Links) Clear(ctx context.Context) (int, error) {
	names, err := l.HostVeths()
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		if err := l.DeleteVeth(ctx, name); err != nil {
			return 0, err
		}
	}
	l.sweep()
	return len(names), removeIngressTable()
}

func removeIngressTable() error {
	nft, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	tables, err := nft.ListTablesOfFamily(nftables.TableFamilyNetdev)
	for _, none := range []error{unix.ENOENT, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT} {
		if errors.Is(err, none) {
			return nil // no nftables, as in ingressChains
		}
	}
	if err != nil {
		return fmt.Errorf("list nftables' tables: %w", err)
	}
	for _, t := range tables {
		if t.Name == ingressTable {
			nft.DelTable(t)
		}
	}
	if err := nft.Flush(); err != nil {
		return fmt.Errorf("remove the ingress table: %w", err)
	}
	return nil
}
