package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

const (
	joinRuns = 9
	joinWait = time.Minute
)

// joining measures how long it takes from `cluster join` on a host that was alone to
// the first packet between its container and another host's. It has a lab of its
// own, whose agents run their Consul themselves.
func joining(ctx context.Context) (err error) {
	l, err := lab.Up(ctx, lab.Options{Hosts: 2, Bare: true, NoDocker: true, Out: os.Stderr})
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
	for _, h := range l.Hosts() {
		settings := fmt.Sprintf("[host]\nname = %q\n[docker]\nenabled = false\n", h.Name)
		if _, err := h.Exec(ctx, "sh", "-c", `printf %s "$0" >/etc/socketplane/socketplane.toml`, settings); err != nil {
			return err
		}
		if err := each(ctx, h, "socketplane agent start", "ip netns add joins"); err != nil {
			return err
		}
		if err := repeat(ctx, func() error { return ready(ctx, h) }); err != nil {
			return err
		}
	}
	first, second := l.Host(1), l.Host(2)
	err = each(ctx, first, "socketplane cluster bootstrap", "socketplane network create "+network+" 10.88.0.0/16",
		"socketplane connect -n "+network+" --netns /run/netns/joins --id first")
	if err != nil {
		return err
	}
	token, err := first.Exec(ctx, "socketplane", "cluster", "token")
	if err != nil {
		return err
	}
	to, err := address(ctx, first, "first")
	if err != nil {
		return err
	}
	joined, whole := &sample{name: "cluster join"}, &sample{name: "join, connect, first ping across"}
	for range joinRuns {
		err := whole.measure(func() error {
			err := joined.measure(func() error {
				cmd := second.Command(ctx, "socketplane", "cluster", "join", "--token-file", "-", first.Addr.String())
				cmd.Stdin = strings.NewReader(token)
				said, err := cmd.CombinedOutput()
				if err != nil {
					return fmt.Errorf("%w: %s", err, said)
				}
				return nil
			})
			if err != nil {
				return err
			}
			if err := each(ctx, second, "socketplane connect -n "+network+" --netns /run/netns/joins --id second"); err != nil {
				return err
			}
			return repeat(ctx, func() error {
				return each(ctx, second, "ip netns exec joins ping -c 1 -W 0.1 "+to)
			})
		})
		if err != nil {
			return err
		}
		if err := each(ctx, second, "socketplane disconnect second", "socketplane cluster leave"); err != nil {
			return err
		}
	}
	table(os.Stdout, "A second host enters the cluster of one", [2]*sample{joined}, [2]*sample{whole})
	return nil
}

// ready says whether a host's agent is.
func ready(ctx context.Context, h *lab.Host) error {
	said, err := h.Exec(ctx, "socketplane", "agent", "status", "-o", "json")
	if err != nil {
		return err
	}
	var s struct{ Ready bool }
	if err := json.Unmarshal([]byte(said), &s); err != nil {
		return err
	}
	if !s.Ready {
		return fmt.Errorf("the agent of %s is not ready", h.Name)
	}
	return nil
}

// address is that of an endpoint.
func address(ctx context.Context, h *lab.Host, id string) (string, error) {
	said, err := h.Exec(ctx, "socketplane", "info", id, "-o", "json")
	if err != nil {
		return "", err
	}
	var e struct{ IP string }
	return e.IP, json.Unmarshal([]byte(said), &e)
}

// repeat does what fails again, until it does not or joinWait has passed.
func repeat(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, joinWait)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}
