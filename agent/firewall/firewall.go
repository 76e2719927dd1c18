// Package firewall manages the nftables table "ip socketplane". The table limits who may
// reach the ports of the cluster: those of VXLAN and of the Consul that the agent runs.
// It only drops packets. Every other firewall of the host still judges the packets that
// it accepts, and no accept elsewhere undoes its drops. The package never changes another
// table. It works in the network namespace of the process.
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

// tableName is the name of the table in the family "ip".
const tableName = "socketplane"

// ErrUnsupported means that the kernel lacks nftables or a part of it that we need.
var ErrUnsupported = errors.New("this kernel has no nftables")

// Firewall manages the table of this host. It is safe for concurrent use.
type Firewall struct {
	log *slog.Logger
	mu  sync.Mutex // held over each read and change
}

// New returns a Firewall. It changes nothing before Set or Close.
func New(logger *slog.Logger) *Firewall { return &Firewall{log: logger} }

// Set makes the table equal to r. It reads the table from the kernel and writes only what
// differs. It updates the set of hosts in place, and replaces the table atomically if
// anything else differs. It returns ErrUnsupported if the kernel lacks nftables.
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

// Close closes the ports to all but the underlay before the hosts of the cluster are
// known. It ignores r.Hosts. It keeps a table with the same rules and with hosts, which
// an earlier run of the agent left.
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

// keeps reports whether the table has these rules and a set of hosts.
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
	// The datapath is unknown until the switch is open.
	for _, datapath := range []struct{ userspace, marked bool }{{userspace: true}, {}, {marked: true}} {
		r.Userspace, r.Marked = datapath.userspace, datapath.marked
		if have.same(r.chains()) {
			return true, nil
		}
	}
	return false, nil
}

// Clear removes the table. It succeeds if there is none.
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

// supported wraps errors of a kernel that lacks nftables, or a part of it that we need,
// in ErrUnsupported.
func supported(err error) error {
	// ENOENT: the kernel lacks a kind of expression, such as fib.
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
