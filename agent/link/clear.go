package link

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Clear removes every endpoint's veth pair, and the table of the ingress chains.
// It gives the number of pairs. Gateway ports are the switch's and go with its
// bridge. Nothing there is success.
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
			return nil // as removeChains
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
