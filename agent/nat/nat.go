// Package nat owns what iptables has to say about the gateway ports: which
// packets the host forwards from and to the networks, that they leave under an
// address of the host, and which of its ports lead to an endpoint; and the sockets
// that keep these ports from others. It works in chains of its own and in the jumps
// to them, and never touches another rule. It works in the network namespace
// of the process, with whatever backend (nft or legacy) the host's iptables has.
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

// restoreTries bounds how often a change is tried anew when somebody else,
// such as dockerd, changed the tables between our look and our change.
const restoreTries = 4

// NAT keeps the rules of this host. It may be used by many goroutines.
type NAT struct {
	log *slog.Logger
	cmd commands

	mu    sync.Mutex // one look-and-change at a time
	known []chain    // what the kernel has as far as is known; nil: look
	own   writers
}

// New finds the iptables programs; without them the error is ErrNoIptables.
func New(logger *slog.Logger) (*NAT, error) {
	cmd, err := findCommands()
	if err != nil {
		return nil, err
	}
	return &NAT{log: logger, cmd: cmd}, nil
}

// Set makes the rules what r says. It goes by what was set last: it writes those of
// our chains that differ, and runs no program when none does. What others took away
// meanwhile Compare finds. A table is changed in one step: no packet sees half of it.
func (n *NAT) Set(ctx context.Context, r Rules) error {
	return n.set(ctx, r, false)
}

// Compare is Set that looks at what the kernel has, our chains and the jumps to them.
// When nothing differs it changes nothing and costs one iptables-save.
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

// rewrite writes the chains that differ from what is known, and says whether that
// was all there is to do.
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

// Clear takes our chains and the jumps to them away. None there is success.
func (n *NAT) Clear(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.known = nil
	if err := n.apply(ctx, removal); err != nil {
		return fmt.Errorf("clear iptables rules: %w", err)
	}
	return nil
}

// ForwardPolicy gives the policy of FORWARD: ACCEPT or DROP.
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
	return "ACCEPT", nil // the kernel's own, while nobody has used the table
}

// AllowForward makes ACCEPT the policy of FORWARD, as it is on a host that forwards
// nothing: what Rules.DenyForward changed.
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

// Wrote says whether a change of nftables that the kernel tells of was made here: port
// is the netlink port of who made it, which is the process id of iptables-restore.
func (n *NAT) Wrote(port uint32) bool { return n.own.has(port) }

func (n *NAT) restore(ctx context.Context, input string) error {
	return n.cmd.restore(ctx, input, &n.own)
}

// apply feeds what script says of the present rules to iptables-restore. The caller
// holds n.mu.
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
