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
	asked  map[string][]nat.Port // by owner
	held   map[nat.Port]string   // owner; empty: another program
	chosen uint16
}

// NewHostPorts makes a host on which every port is free.
func NewHostPorts(c *Calls) *HostPorts {
	return &HostPorts{calls: c, asked: map[string][]nat.Port{}, held: map[nat.Port]string{}}
}

// Claim gives an owner the ports, all or none; those with the same words clash.
// One that is told to fail has done nothing, as a claim of the kernel's.
func (h *HostPorts) Claim(owner string, ports []nat.Port) ([]nat.Port, error) {
	if err := h.calls.do(context.Background(), "HostPorts.Claim", func() error { return nil }); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if slices.Equal(h.asked[owner], ports) && len(ports) > 0 {
		return h.of(owner), nil
	}
	var got []nat.Port
	for _, p := range ports {
		if p.HostPort == 0 {
			p.HostPort = firstFree + h.chosen
			h.chosen++
		}
		if by, taken := h.held[p]; taken && by != owner {
			return nil, &nat.PortTakenError{Port: p, Owner: by}
		}
		got = append(got, p)
	}
	h.drop(owner)
	for _, p := range got {
		h.held[p] = owner
	}
	if len(ports) > 0 {
		h.asked[owner] = ports
	}
	return got, nil
}

// of gives what an owner holds in the order in which it asked.
func (h *HostPorts) of(owner string) []nat.Port {
	var got []nat.Port
	for _, asked := range h.asked[owner] {
		for p, by := range h.held {
			same := p
			if asked.HostPort == 0 {
				same.HostPort = 0
			}
			if by == owner && same == asked && !slices.Contains(got, p) {
				got = append(got, p)
				break
			}
		}
	}
	return got
}

func (h *HostPorts) drop(owner string) {
	for p, by := range h.held {
		if by == owner && owner != "" {
			delete(h.held, p)
		}
	}
	delete(h.asked, owner)
}

// Release gives up what an owner holds.
func (h *HostPorts) Release(owner string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drop(owner)
}

// Occupy has another program take a port.
func (h *HostPorts) Occupy(p nat.Port) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held[p] = ""
}

// Vacate ends that program.
func (h *HostPorts) Vacate(p nat.Port) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.held, p)
}

// Restart ends the process that holds the ports.
func (h *HostPorts) Restart() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for owner := range h.asked {
		h.drop(owner)
	}
}

// State describes who holds what, a line each, sorted.
func (h *HostPorts) State() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var lines []string
	for p, owner := range h.held {
		lines = append(lines, fmt.Sprintf("host port %s of %q", p, owner))
	}
	slices.Sort(lines)
	return lines
}
