package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sync/errgroup"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/ipam"
)

const (
	socket      = "/run/socketplane/socketplane.sock"
	attachRuns  = 100
	allocators  = 16
	allocateFor = 5 * time.Second
	endpoints   = 200
)

// spaces makes n network namespaces and gives what removes them.
func spaces(ctx context.Context, prefix string, n int) (names []string, remove func(), err error) {
	remove = func() {
		for _, name := range names {
			_ = netns.DeleteNamed(name) // the host itself goes soon
		}
	}
	for i := range n {
		name := fmt.Sprintf("%s%d", prefix, i)
		if out, err := exec.CommandContext(ctx, "ip", "netns", "add", name).CombinedOutput(); err != nil {
			return names, remove, fmt.Errorf("namespace: %w: %s", err, out)
		}
		names = append(names, name)
	}
	return names, remove, nil
}

// attachPart measures attach and detach over the agent's socket beside the bare
// steps. One endpoint stays attached, so that the network is in use already.
func attachPart(ctx context.Context) error {
	svc := api.NewClient(socket)
	f, err := newFloor(ctx)
	if err != nil {
		return err
	}
	defer f.close() //nolint:errcheck // the host itself goes soon
	names, remove, err := spaces(ctx, "bench", 2)
	defer remove()
	if err != nil {
		return err
	}
	attach := func(id, ns string) error {
		_, err := svc.Attach(ctx, api.AttachRequest{ID: id, Network: network, NetNS: "/run/netns/" + ns, Source: api.SourceConnect})
		return err
	}
	if err := attach("stays", names[0]); err != nil {
		return err
	}
	up, down := &sample{name: "attach"}, &sample{name: "detach and release"}
	bareUp, bareDown := &sample{name: "bare steps up"}, &sample{name: "bare steps down"}
	for range attachRuns {
		ns, err := netns.GetFromName(names[1])
		if err != nil {
			return err
		}
		err = errors.Join(
			up.measure(func() error { return attach("comes", names[1]) }),
			down.measure(func() error { return svc.Release(ctx, "comes") }),
			bareUp.measure(func() error { return f.attach(ctx, ns) }),
			bareDown.measure(func() error { return f.detach(ctx) }),
			ns.Close(),
		)
		if err != nil {
			return err
		}
	}
	table(os.Stdout, "Attach and detach on one host of three, Consul with three servers",
		[2]*sample{bareUp}, [2]*sample{up, bareUp}, [2]*sample{bareDown}, [2]*sample{down, bareDown})
	return svc.Release(ctx, "stays")
}

// allocatePart counts how many addresses sixteen hosts allocate at once.
func allocatePart(ctx context.Context) error {
	store, err := state.OpenConsul(state.ConsulConfig{Address: "http://127.0.0.1:8500"})
	if err != nil {
		return err
	}
	defer store.Close() //nolint:errcheck // the process ends
	pool := ipam.Pool{Subnet: netip.MustParsePrefix("10.99.0.0/16"), Gateway: netip.MustParseAddr("10.99.0.1")}
	var done atomic.Int64
	deadline := time.Now().Add(allocateFor)
	g, gctx := errgroup.WithContext(ctx)
	for h := range allocators {
		a := ipam.New(store, fmt.Sprintf("host-%d", h))
		g.Go(func() error {
			for n := 0; time.Now().Before(deadline); n++ {
				if _, err := a.Allocate(gctx, pool, fmt.Sprintf("host-%d/%d", h, n)); err != nil {
					return err
				}
				done.Add(1)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	fmt.Printf("\nAllocation: %d allocators at once, %.0f addresses a second\n", allocators, float64(done.Load())/allocateFor.Seconds())
	return store.Txn(ctx, []state.Op{{Kind: state.OpDeleteTree, Key: ipam.Prefix(pool.Subnet)}})
}

// memoryPart reads the agent's resident memory, idle and with many endpoints.
func memoryPart(ctx context.Context) error {
	svc := api.NewClient(socket)
	st, err := svc.Status(ctx)
	if err != nil {
		return err
	}
	idle, err := resident(st.PID)
	if err != nil {
		return err
	}
	names, remove, err := spaces(ctx, "mem", endpoints)
	defer remove()
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(allocators)
	start := time.Now()
	for _, name := range names {
		g.Go(func() error {
			_, err := svc.Attach(gctx, api.AttachRequest{ID: name, Network: network, NetNS: "/run/netns/" + name, Source: api.SourceConnect})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	took := time.Since(start)
	full, err := resident(st.PID)
	if err != nil {
		return err
	}
	fmt.Printf("\nMemory of the agent: %s idle, %s with %d endpoints (attached in %.1f s, %d at a time)\n",
		idle, full, endpoints, took.Seconds(), allocators)
	for _, name := range names {
		if err := svc.Release(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// resident is VmRSS of a process, as the kernel writes it.
func resident(pid int) (string, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // read only
	for s := bufio.NewScanner(f); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), "VmRSS:"); ok {
			var kb float64
			if _, err := fmt.Sscan(rest, &kb); err != nil {
				return "", err
			}
			return fmt.Sprintf("%.1f MB", kb*1024/1e6), nil
		}
	}
	return "", errors.New("the kernel does not tell VmRSS")
}
