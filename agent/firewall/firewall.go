// Package firewall owns the nftables table "ip socketplane": who may speak to the
// ports that carry the cluster, VXLAN's and those of the Consul that the agent
// runs. It only drops. What it lets pass every other firewall of the host still
// judges, and no accept elsewhere undoes a drop here. It never touches another
// table, and it works in the network namespace of the process.
package firewall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// tableName is the name of the table, in the family "ip".
const tableName = "socketplane"

// ErrUnsupported means that the kernel has no nftables.
var ErrUnsupported = errors.New("this kernel has no nftables")

// Firewall keeps the table of this host. It may be used by many goroutines.
type Firewall struct {
	log *slog.Logger
	mu  sync.Mutex // one look-and-change at a time
}

// New makes a Firewall. Nothing is changed before Set.
func New(logger *slog.Logger) *Firewall { return &Firewall{log: logger} }

// Set makes the table what r says. It compares with what the kernel has, and
// writes only what differs: the set of hosts by its difference, anything else by
// replacing the table in one step. The error is ErrUnsupported where the kernel
// has no nftables.
func (f *Firewall) Set(ctx context.Context, r Rules) error {
	if err := r.check(); err != nil {
		return fmt.Errorf("set the firewall of the cluster's ports: %w", err)
	}
	if err := f.set(ctx, r); err != nil {
		return fmt.Errorf("set the firewall of the cluster's ports: %w", err)
	}
	return nil
}

func (f *Firewall) set(ctx context.Context, r Rules) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	nft, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	have, err := read(nft)
	if err != nil {
		return supported(err)
	}
	if c := have.chains[sendingChain]; c != nil && len(c.comments) > 0 {
		r.Marked = true // an earlier life has made the tunnels send with the mark
	}
	want := r.chains()
	if have.same(want) {
		return supported(updateHosts(nft, have, r.Hosts))
	}
	if have.exists {
		f.log.Info("the firewall of the cluster's ports is written anew", "table", tableName)
	}
	return supported(replace(nft, want, r.Hosts))
}

// Close closes the ports to all but the underlay, before the hosts of the cluster are
// known: r.Hosts does not count. A table of the same rules that an earlier life has
// left, with the hosts that it knew, stays as it is.
func (f *Firewall) Close(ctx context.Context, r Rules) error {
	r.Hosts = nil
	if err := r.check(); err != nil {
		return fmt.Errorf("close the cluster's ports: %w", err)
	}
	kept, err := f.keeps(r)
	if err == nil && !kept {
		err = f.set(ctx, r)
	}
	if err != nil {
		return fmt.Errorf("close the cluster's ports: %w", err)
	}
	return nil
}

// keeps says whether the table has these rules, with hosts in them.
func (f *Firewall) keeps(r Rules) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	nft, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("open nftables: %w", err)
	}
	have, err := read(nft)
	if err != nil {
		return false, supported(err)
	}
	r.Hosts = []netip.Addr{}
	// Which one it is, is not known before the switch is.
	for _, datapath := range []struct{ userspace, marked bool }{{userspace: true}, {}, {marked: true}} {
		r.Userspace, r.Marked = datapath.userspace, datapath.marked
		if have.same(r.chains()) {
			return true, nil
		}
	}
	return false, nil
}

// Clear removes the table. None there is success.
func (f *Firewall) Clear() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	nft, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	have, err := read(nft)
	if err = supported(err); errors.Is(err, ErrUnsupported) || err == nil && !have.exists {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove the firewall of the cluster's ports: %w", err)
	}
	nft.DelTable(table())
	if err := nft.Flush(); err != nil {
		return fmt.Errorf("remove the firewall of the cluster's ports: %w", err)
	}
	return nil
}

// supported names the errors of a kernel without nftables, or without a part of
// it that we need.
func supported(err error) error {
	// ENOENT: a kind of expression that the kernel lacks, such as fib.
	for _, none := range []error{unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.ENOENT} {
		if errors.Is(err, none) {
			return fmt.Errorf("%w: %w", ErrUnsupported, err)
		}
	}
	return err
}

func table() *nftables.Table {
	return &nftables.Table{Name: tableName, Family: nftables.TableFamilyIPv4}
}
