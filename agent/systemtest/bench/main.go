// Bench is what `make bench` runs: what an attach, a container, a packet, an
// address and a byte through the proxy cost, each measured in turn with its floor in the same run. It only
// prints; nothing passes or fails by time.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

const network = "bench"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := bench
	if len(os.Args) == 2 { // a part: join and across stand alone, the others run inside a host
		run = map[string]func(context.Context) error{
			"attach": attachPart, "run": runPart, "allocate": allocatePart, "memory": memoryPart, "proxy": proxyPart, "join": joining, "across": across,
		}[os.Args[1]]
	}
	if run == nil {
		fmt.Fprintln(os.Stderr, "usage: bench")
		os.Exit(2)
	}
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench measures part after part.
func bench(ctx context.Context) error {
	if err := onThree(ctx); err != nil {
		return err
	}
	if err := joining(ctx); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	return binarySize(os.Stdout)
}

// onThree measures what needs a cluster, on a lab of three.
func onThree(ctx context.Context) (err error) {
	l, err := lab.Up(ctx, lab.Options{Hosts: 3, Out: os.Stderr})
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if derr := l.Down(end); err == nil {
			err = derr
		}
	}()
	if _, err := l.Host(1).Exec(ctx, "socketplane", "network", "create", network, "10.88.0.0/16"); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for _, part := range []string{"attach", "run", "allocate", "memory", "proxy"} {
		cmd := l.Host(1).Command(ctx, self, part)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w", part, err)
		}
	}
	return throughput(ctx, os.Stdout, l)
}

func binarySize(out io.Writer) error {
	fi, err := os.Stat("bin/socketplane")
	if err != nil {
		return fmt.Errorf("run it from the module's root, after make build: %w", err)
	}
	fmt.Fprintf(out, "\nbinary: bin/socketplane is %.1f MB\n", float64(fi.Size())/1e6)
	return nil
}
