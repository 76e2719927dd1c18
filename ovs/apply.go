package ovs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"
)

// flowMemory is what we know of the switch's flows.
type flowMemory struct {
	turn   chan struct{} // held by the call that applies
	mu     sync.Mutex
	asked  uint64           // number of the newest call
	begun  uint64           // number of the newest call that got its turn
	known  map[flowKey]Flow // nil if unknown: compare with the switch itself
	named  map[int]bool     // ports that the flows may contain
	epoch  uint64           // incremented whenever known is dropped or replaced
	inUse  bool             // a call is applying flows
	logged map[string]bool  // omissions of the last state, already logged
}

func (m *flowMemory) init() {
	m.turn = make(chan struct{}, 1)
	m.named = map[int]bool{}
}

// forget makes the next call compare all flows with the switch.
func (m *flowMemory) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known = nil
	m.epoch++
}

// ports returns the ports that the switch's flows may contain.
func (m *flowMemory) ports() map[int]bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.named)
}

// SetForwarding makes the switch's flows equal to those of f. It sends only the
// differences from the last state, in atomic bundles. The latest of concurrent calls
// wins: a call that gets its turn after a newer one does nothing.
func (s *Switch) SetForwarding(ctx context.Context, f Forwarding) error {
	if err := s.applyForwarding(ctx, f, false); err != nil {
		return fmt.Errorf("set forwarding of bridge %q: %w", s.cfg.Bridge, err)
	}
	return nil
}

// Resync is like SetForwarding but compares with the actual flows of the switch. Flows of
// other owners stay.
func (s *Switch) Resync(ctx context.Context, f Forwarding) error {
	if err := s.applyForwarding(ctx, f, true); err != nil {
		return fmt.Errorf("resynchronise flows of bridge %q: %w", s.cfg.Bridge, err)
	}
	return nil
}

func (s *Switch) applyForwarding(ctx context.Context, f Forwarding, full bool) error {
	m := &s.flows
	m.mu.Lock()
	m.asked++
	number := m.asked
	m.mu.Unlock()
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	m.mu.Lock()
	if number < m.begun {
		m.mu.Unlock()
		return nil
	}
	m.begun = number
	known, epoch := m.known, m.epoch
	wanted := f.ports()
	for p := range wanted {
		m.named[p] = true
	}
	m.inUse = true
	m.mu.Unlock()
	want, dropped := f.render()
	s.reportDropped(dropped)
	err := s.apply(ctx, known, want, full)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.inUse = false
	if err != nil || m.epoch != epoch { // the switch was lost meanwhile
		m.known = nil
		m.epoch++
		return err
	}
	m.known = make(map[flowKey]Flow, len(want))
	for _, fl := range want {
		m.known[fl.key()] = fl
	}
	m.named = wanted
	m.epoch++
	return nil
}

func (s *Switch) apply(ctx context.Context, known map[flowKey]Flow, want []Flow, full bool) error {
	if known != nil && !full {
		return s.change(ctx, changes(known, want))
	}
	var file strings.Builder
	for _, f := range want {
		file.WriteString(f.String())
		file.WriteByte('\n')
	}
	// diff-flows accepts only the name of a file.
	out, err := s.runOFCtl(ctx, file.String(), "diff-flows", s.controlTarget(), "/dev/stdin")
	if err != nil {
		return err
	}
	lines, err := parseDiff(out)
	if err != nil {
		return err
	}
	return s.change(ctx, lines)
}

// change changes flows and announces new addresses to the members.
func (s *Switch) change(ctx context.Context, lines []string) error {
	if err := s.send(ctx, lines); err != nil {
		return err
	}
	s.tell(lines)
	return nil
}

// bundleLines limits one atomic bundle. Local flows come first and do not wait for the
// rest of a large cluster.
const bundleLines = 4096

func (s *Switch) send(ctx context.Context, lines []string) error {
	for chunk := range slices.Chunk(lines, bundleLines) {
		if _, err := s.runOFCtl(ctx, strings.Join(chunk, "\n")+"\n", "--bundle", "add-flows", s.controlTarget(), "-"); err != nil {
			return err
		}
	}
	return nil
}

func (s *Switch) controlPath() string   { return s.cfg.RunDir + "/" + s.cfg.Bridge + ".mgmt" }
func (s *Switch) controlTarget() string { return "unix:" + s.controlPath() }

// runOFCtl runs ovs-ofctl once. With --no-names it does not request the names of the
// ports, which takes two thirds of its time. OpenFlow 1.4 is the first version with
// bundles.
func (s *Switch) runOFCtl(ctx context.Context, stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, flowTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.ofctl, append([]string{"-O", "OpenFlow14", "--no-names"}, args...)...)
	cmd.Env = append(cmd.Environ(), "OVS_RUNDIR="+s.cfg.RunDir)
	cmd.WaitDelay = time.Second
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if ctx.Err() != nil {
		return "", fmt.Errorf("%w: ovs-vswitchd did not take the flows: %w", ErrUnavailable, ctx.Err())
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 2 && stderr.Len() == 0 { // diff-flows found differences
		return stdout.String(), nil
	}
	if err != nil {
		text := strings.TrimSpace(stderr.String())
		return "", fmt.Errorf("ovs-ofctl %s: %w: %.500s", args[0], err, text)
	}
	return stdout.String(), nil
}

// reportDropped logs the parts of the state that render omitted, once each.
func (s *Switch) reportDropped(names []string) {
	now := map[string]bool{}
	for _, n := range names {
		now[n] = true
	}
	s.flows.mu.Lock()
	before := s.flows.logged
	s.flows.logged = now
	s.flows.mu.Unlock()
	for n := range now {
		if !before[n] {
			s.log.Warn("left out of forwarding: malformed, or claimed by another", "what", n)
		}
	}
}
