package agenttest

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/socketplane/socketplane/agent/nat"
)

// firstFree is the first port that Claim chooses for port 0.
const firstFree = 40000

// HostPorts is an in-memory implementation of agent.HostPorts.
type HostPorts struct {
	calls *Calls

	mu     sync.Mutex
	claims map[string][]claim // by owner
	others map[nat.Port]bool  // ports of other programs
	chosen uint16
}

type claim struct{ asked, got nat.Port }

// NewHostPorts returns a host on which every port is free.
func NewHostPorts(c *Calls) *HostPorts {
	return &HostPorts{calls: c, claims: map[string][]claim{}, others: map[nat.Port]bool{}}
}

// Claim replaces the ports of an owner with ports, all or none. The owners in with may
// hold the same ports. A call that is made to fail changes nothing, like a failed claim
// in the kernel.
func (h *HostPorts) Claim(owner string, ports []nat.Port, with ...string) ([]nat.Port, error) {
	if err := h.calls.do(context.Background(), "HostPorts.Claim", func() error { return nil }); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	left := slices.Clone(h.claims[owner])
	var now []claim
	var got []nat.Port
	for i, p := range ports {
		c := claim{asked: p, got: p}
		if at := slices.IndexFunc(left, func(c claim) bool { return c.asked == p || c.got == p }); at >= 0 {
			c = left[at]
			left = slices.Delete(left, at, at+1)
		} else if err := h.free(owner, p, ports[:i], with); err != nil {
			return nil, err
		}
		if c.got.HostPort == 0 {
			c.got.HostPort = firstFree + h.chosen
			h.chosen++
		}
		now, got = append(now, c), append(got, c.got)
	}
	if h.claims[owner] = now; len(now) == 0 {
		delete(h.claims, owner)
	}
	return got, nil
}

func (h *HostPorts) free(owner string, p nat.Port, own []nat.Port, with []string) error {
	for other, claims := range h.claims {
		for _, c := range claims {
			if other != owner && c.got.Clashes(p) && (c.got != p || !slices.Contains(with, other)) {
				return &nat.PortTakenError{Port: p, Owner: other}
			}
		}
	}
	for _, q := range own {
		if q.Clashes(p) {
			return &nat.PortTakenError{Port: p, Owner: owner}
		}
	}
	for q := range h.others {
		if q.Clashes(p) {
			return &nat.PortTakenError{Port: p}
		}
	}
	return nil
}

// Release releases all ports of an owner.
func (h *HostPorts) Release(owner string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.claims, owner)
}

// Occupy makes another program use a port.
func (h *HostPorts) Occupy(p nat.Port) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.others[p] = true
}

// Vacate reverts Occupy.
func (h *HostPorts) Vacate(p nat.Port) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.others, p)
}

// Restart drops all claims, as the end of the process that holds them does.
func (h *HostPorts) Restart() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.claims)
}

// State describes the ports in use, one per line, sorted.
func (h *HostPorts) State() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var lines []string
	for p := range h.others {
		lines = append(lines, fmt.Sprintf("host port %s of another program", p))
	}
	for owner, claims := range h.claims {
		for _, c := range claims {
			lines = append(lines, fmt.Sprintf("host port %s of %q", c.got, owner))
		}
	}
	slices.Sort(lines)
	return lines
}
