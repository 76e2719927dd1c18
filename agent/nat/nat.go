// Package nat manages the iptables rules of the gateway ports and the sockets that
// reserve published ports. The rules decide which packets the host forwards from and to
// the networks. They make packets leave with an address of the host, and lead ports of
// the host to endpoints. The package changes only its own chains and the jumps to them.
// It works in the network namespace of the process, with the iptables backend of the host
// (nft or legacy).
package nat

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
)

// ErrNoIptables means that the host lacks the iptables programs.
var ErrNoIptables = errors.New("iptables-save and iptables-restore were not found; install the iptables package")

// restoreTries limits how often a change is repeated. It fails if somebody else, such as
// dockerd, changes the tables between our read and our change.
const restoreTries = 4

// NAT manages the rules of this host. It is safe for concurrent use.
type NAT struct {
	log *slog.Logger
	cmd commands

	mu    sync.Mutex // held over each read and change
	known []chain    // the rules of the kernel as last known; nil: read them
	own   writers
}

// New finds the iptables programs. It returns ErrNoIptables if they are missing.
func New(logger *slog.Logger) (*NAT, error) {
	cmd, err := findCommands()
	if err != nil {
		return nil, err
	}
	return &NAT{log: logger, cmd: cmd}, nil
}

// Set makes the rules equal to r. It compares r with the last Set, rewrites only chains
// of ours that differ, and runs no program if none differs. It does not notice what
// others removed; Compare does. A table changes atomically: no packet sees a partial
// change.
func (n *NAT) Set(ctx context.Context, r Rules) error {
	return n.set(ctx, r, false)
}

// Compare is like Set but compares r with the kernel: our chains and the jumps to them.
// If nothing differs, it changes nothing and costs one iptables-save.
func (n *NAT) Compare(ctx context.Context, r Rules) error {
	return n.set(ctx, r, true)
}

func (n *NAT) set(ctx context.Context, r Rules, look bool) error {
	want, err := r.chains()
	if err != nil {
		return fmt.Errorf("set iptables rules: %w", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !look && n.rewrite(ctx, want) {
		return nil
	}
	n.known = nil
	if err := n.apply(ctx, func(have ruleset) string { return difference(have, want) }); err != nil {
		return fmt.Errorf("set iptables rules: %w", err)
	}
	n.known = want
	return nil
}

// rewrite writes the chains that differ from the known ones. It reports whether the rules
// are now as wanted.
func (n *NAT) rewrite(ctx context.Context, want []chain) bool {
	if n.known == nil {
		return false
	}
	input, ok := changes(n.known, want)
	if !ok {
		return false
	}
	if input == "" {
		return true
	}
	n.log.Debug("changing iptables rules", "input", input)
	if err := n.restore(ctx, input); err != nil {
		n.log.Debug("iptables rules are not as they were left; looking", "err", err)
		return false
	}
	n.known = want
	return true
}

// Clear removes our chains and the jumps to them. It succeeds if there are none.
func (n *NAT) Clear(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.known = nil
	if err := n.apply(ctx, removal); err != nil {
		return fmt.Errorf("clear iptables rules: %w", err)
	}
	return nil
}

// ForwardPolicy returns the policy of FORWARD: ACCEPT or DROP.
func (n *NAT) ForwardPolicy(ctx context.Context) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	have, err := n.cmd.save(ctx)
	if err != nil {
		return "", fmt.Errorf("read the policy of FORWARD: %w", err)
	}
	if policy := have["filter"][policyOf("FORWARD")]; len(policy) == 1 {
		return policy[0], nil
	}
	return "ACCEPT", nil // the kernel's default while the table is unused
}

// AllowForward sets the policy of FORWARD back to ACCEPT if it is DROP. It undoes
// Rules.DenyForward.
func (n *NAT) AllowForward(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.known = nil
	err := n.apply(ctx, func(have ruleset) string {
		if !slices.Equal(have["filter"][policyOf("FORWARD")], []string{"DROP"}) {
			return ""
		}
		return "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"
	})
	if err != nil {
		return fmt.Errorf("set the policy of FORWARD: %w", err)
	}
	return nil
}

// Wrote reports whether this NAT caused an nftables notification. port is the netlink
// port of the writer, which is the process id of iptables-restore.
func (n *NAT) Wrote(port uint32) bool { return n.own.has(port) }

func (n *NAT) restore(ctx context.Context, input string) error {
	return n.cmd.restore(ctx, input, &n.own)
}

// apply passes the result of script for the current rules to iptables-restore. It does
// nothing if the result is empty. The caller holds n.mu.
func (n *NAT) apply(ctx context.Context, script func(have ruleset) string) error {
	var failed error
	for range restoreTries {
		have, err := n.cmd.save(ctx)
		if err != nil {
			return errors.Join(failed, err)
		}
		input := script(have)
		if input == "" {
			return nil
		}
		n.log.Debug("changing iptables rules", "input", input)
		if failed = n.restore(ctx, input); failed == nil {
			return nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return failed
}
