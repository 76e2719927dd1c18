package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

const (
	// proxyRuns is how often each way carries the stream.
	proxyRuns = 5
	// streamBytes is how much a stream is, enough that its start does not count.
	streamBytes = "300000000"

	streamer   = "bench-stream"
	proxySpeak = "unix:///run/socketplane/bench-proxy.sock"
)

// proxyPart carries 300 MB out of a container and into one, by dockerd itself
// and through our proxy in turn: both are connections that were hijacked.
func proxyPart(ctx context.Context) (err error) {
	proxy := exec.CommandContext(ctx, "socketplane", "proxy", "--listen", proxySpeak)
	proxy.Stderr = os.Stderr
	if err := proxy.Start(); err != nil {
		return err
	}
	defer func() {
		_ = proxy.Process.Signal(syscall.SIGTERM)
		_ = proxy.Wait() // the host is thrown away next
	}()
	if err := command(ctx, "docker", "run", "-d", "--init", "--net", "none", "--name", streamer, "lab", "sleep", "100000")(); err != nil {
		return err
	}
	defer func() {
		if rmErr := command(ctx, "docker", "rm", "-f", streamer)(); err == nil {
			err = rmErr
		}
	}()
	if err := answers(ctx); err != nil {
		return err
	}
	stream := func(host, script string) func() error {
		return command(ctx, "sh", "-c", script, "sh", host, streamer, streamBytes)
	}
	for _, s := range []struct{ title, script string }{
		{"300 MB out of a container", `docker -H "$1" exec "$2" head -c "$3" /dev/zero >/dev/null`},
		{"300 MB into a container", `head -c "$3" /dev/zero | docker -H "$1" exec -i "$2" sh -c 'cat >/dev/null'`},
	} {
		direct, through := &sample{name: "dockerd itself"}, &sample{name: "through socketplane proxy"}
		for range proxyRuns {
			if err := direct.measure(stream("unix:///run/docker.sock", s.script)); err != nil {
				return err
			}
			if err := through.measure(stream(proxySpeak, s.script)); err != nil {
				return err
			}
		}
		table(os.Stdout, s.title+", by docker exec", [2]*sample{direct}, [2]*sample{through, direct})
	}
	return nil
}

// answers waits until Docker answers through the proxy.
func answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := command(ctx, "docker", "-H", proxySpeak, "version")()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the proxy does not answer: %w", err)
		case <-tick.C:
		}
	}
}
