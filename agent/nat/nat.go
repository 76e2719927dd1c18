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

	mu sync.Mutex // one look-and-change at a time
}

// New finds the iptables programs; without them the error is ErrNoIptables.
func New(logger *slog.Logger) (*NAT, error) {
	cmd, err := findCommands()
	if err != nil {
		return nil, err
	}
	return &NAT{log: logger, cmd: cmd}, nil
}

// Set makes the rules what r says. It compares with what the kernel has: when
// nothing differs it changes nothing and costs one iptables-save. A table is
// changed in one step: no packet sees half of it.
func (n *NAT) Set(ctx context.Context, r Rules) error {
	want, err := r.chains()
	if err != nil {
		return fmt.Errorf("set iptables rules: %w", err)
	}
	if err := n.apply(ctx, func(have ruleset) string { return difference(have, want) }); err != nil {
		return fmt.Errorf("set iptables rules: %w", err)
	}
	return nil
}

// Clear takes our chains and the jumps to them away. None there is success.
func (n *NAT) Clear(ctx context.Context) error {
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

// apply feeds what script says of the present rules to iptables-restore.
func (n *NAT) apply(ctx context.Context, script func(have ruleset) string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
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
		if failed = n.cmd.restore(ctx, input); failed == nil {
			return nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return failed
}
