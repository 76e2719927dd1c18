package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// dockerRuns is how many containers each way of running one gets.
const dockerRuns = 40

// overlay is a network of Docker's own over many hosts, to compare with.
const overlay = "bench-overlay"

// runPart times a container from nothing to nothing, each way in turn: without a
// network, on Docker's bridge, through `socketplane run`, through Docker's network
// driver, and on Docker's overlay where this machine has it.
func runPart(ctx context.Context) error {
	type way struct {
		sample
		argv []string
	}
	run := func(name string, argv ...string) *way {
		return &way{sample: sample{name: name}, argv: append(argv, "lab", "true")}
	}
	none := run("docker run --rm --net none lab true", "docker", "run", "--rm", "--net", "none")
	ways := []*way{
		none,
		run("docker run --rm lab true (Docker's bridge)", "docker", "run", "--rm"),
		run("socketplane run --rm lab true", "socketplane", "run", "--rm", "-n", network),
		run("docker run --rm --net "+network+" lab true (our driver)", "docker", "run", "--rm", "--net", network),
	}
	away, err := makeOverlay(ctx)
	if err != nil {
		fmt.Println("\nDocker's overlay is not measured:", err)
	} else {
		defer away()
		ways = append(ways, run("docker run --rm --net "+overlay+" lab true (Docker's overlay)", "docker", "run", "--rm", "--net", overlay))
	}
	for _, w := range ways { // once, to warm up
		if err := command(ctx, w.argv...)(); err != nil {
			return err
		}
	}
	for range dockerRuns {
		for _, w := range ways {
			if err := w.measure(command(ctx, w.argv...)); err != nil {
				return err
			}
		}
	}
	rows := [][2]*sample{{&none.sample}}
	for _, w := range ways[1:] {
		rows = append(rows, [2]*sample{&w.sample, &none.sample})
	}
	table(os.Stdout, "A container from nothing to nothing", rows...)
	return nil
}

func command(ctx context.Context, argv ...string) func() error {
	return func() error {
		if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%q: %w: %s", argv, err, out)
		}
		return nil
	}
}

// makeOverlay makes this host a Swarm of one with an overlay network; away ends both.
func makeOverlay(ctx context.Context) (away func(), err error) {
	leave := func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		_ = errors.Join( // the host is thrown away next
			command(end, "docker", "network", "rm", overlay)(),
			command(end, "docker", "swarm", "leave", "--force")(),
		)
	}
	err = command(ctx, "docker", "swarm", "init", "--advertise-addr", "br-phy")()
	if err == nil {
		err = command(ctx, "docker", "network", "create", "-d", "overlay", "--attachable", "--subnet", "10.97.0.0/16", overlay)()
	}
	if err == nil {
		err = command(ctx, "docker", "run", "--rm", "--net", overlay, "lab", "true")()
	}
	if err != nil {
		leave()
		return nil, err
	}
	return leave, nil
}
