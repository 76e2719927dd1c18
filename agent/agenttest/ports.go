package agenttest

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/socketplane/socketplane/agent/nat"
)

// firstFree is the first port that is chosen where any will do.
const firstFree = 40000

// HostPorts is a host's ports in memory.
type HostPorts struct {
	calls *Calls

	mu     sync.Mutex
	claims map[string][]claim // by owner
	others map[nat.Port]bool  // of programs
	chosen uint16
}

type claim struct{ asked, got nat.Port }

// NewHostPorts makes a host on which every port is free.
func NewHostPorts(c *Calls) *HostPorts {
	return &HostPorts{calls: c, claims: map[string][]claim{}, others: map[nat.Port]bool{}}
}

// Claim makes what an owner holds those ports, all or none, each of which those in
// with may hold as well. One that is told to fail has done nothing, as a claim of
// the kernel's.
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

// Release gives up what an owner holds.
func (h *HostPorts) Release(owner string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.claims, owner)
}

// Occupy has another program take a port.
func (h *HostPorts) Occupy(p nat.Port) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.others[p] = true
}

// Vacate ends that program.
func (h *HostPorts) Vacate(p nat.Port) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.others, p)
}

// Restart ends the process that holds the ports.
func (h *HostPorts) Restart() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.claims)
}

// State describes who holds what, a line each, sorted.
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
