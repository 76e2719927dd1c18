package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	// stopGrace is how long Consul may take to exit; it writes its state first.
	stopGrace = 5 * time.Second
	// backOff and maxBackOff limit the pause before a restart of Consul. The pause is
	// reset to backOff for a Consul that ran longer than steady.
	backOff    = 500 * time.Millisecond
	maxBackOff = 30 * time.Second
	steady     = time.Minute
)

// Consul runs this host's Consul agent.
type Consul struct {
	logger *slog.Logger
	client consulClient

	mu   sync.Mutex
	opts ConsulOptions
	anew chan struct{} // signals changed options
	ends bool          // Consul was told to exit
}

// NewConsul returns a Consul with the options. Run starts it.
func NewConsul(opts ConsulOptions, logger *slog.Logger) *Consul {
	return &Consul{opts: opts, logger: logger, client: newConsulClient(opts.socket()), anew: make(chan struct{}, 1)}
}

// Run keeps Consul running until ctx ends, and then stops it. It adopts a Consul that a
// killed agent left behind, if its configuration matches.
func (c *Consul) Run(ctx context.Context) error {
	logs := newConsulLog(filepath.Join(c.options().Dir, "consul.log"), c.logger)
	var done sync.WaitGroup
	defer done.Wait()
	follow, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	logs.begin()
	done.Go(func() { logs.follow(follow) })
	pause, failing := backOff, false
	for ctx.Err() == nil {
		p, adopted, err := c.begin()
		if err != nil {
			if !failing {
				c.logger.Error("Consul cannot be started; trying on", "err", err)
			}
			failing = true
			pause = wait(ctx, pause)
			continue
		}
		failing = false
		began := time.Now()
		c.logger.Info("Consul runs", "pid", p.proc.Pid, "server", c.options().Server, "adopted", adopted)
		select {
		case <-ctx.Done():
			p.stop(stopGrace)
			c.logger.Info("Consul has ended")
			return nil
		case <-c.anew:
			p.stop(stopGrace)
			continue
		case <-p.done:
		}
		if c.expected() {
			continue
		}
		if time.Since(began) > steady {
			pause = backOff
		}
		c.logger.Warn("Consul has ended by itself; starting it again", "after", time.Since(began).Round(time.Millisecond), "in", pause)
		pause = wait(ctx, pause)
	}
	return nil
}

// wait pauses for d and returns the next pause.
func wait(ctx context.Context, d time.Duration) time.Duration {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
	return min(d*2, maxBackOff)
}

// begin adopts the running Consul or starts a new one.
func (c *Consul) begin() (p *process, adopted bool, err error) {
	opts := c.options()
	data, same, err := opts.encodeConfig()
	if err != nil {
		return nil, false, err
	}
	config, pidFile := opts.configPath(), filepath.Join(opts.Dir, "consul.pid")
	if p := runningConsul(config, pidFile); p != nil {
		if same && isSocket(opts.socket()) {
			return p, true, opts.writeConfig(data)
		}
		c.logger.Info("Consul does not run as it should; restarting it", "pid", p.proc.Pid)
		p.stop(stopGrace)
	}
	if err := errors.Join(opts.writeConfig(data), removeStale(opts.Dir)); err != nil {
		return nil, false, err
	}
	if !opts.Server {
		// The raft state of a former server must not return with a later promotion.
		if err := os.RemoveAll(filepath.Join(opts.Dir, "data", "raft")); err != nil {
			return nil, false, err
		}
	}
	p, err = startConsul(opts.Binary, config, filepath.Join(opts.Dir, "consul.log"), pidFile)
	return p, false, err
}

// stopLeftover stops a Consul that an earlier run left behind.
func stopLeftover(dir string) {
	if p := runningConsul(ConsulOptions{Dir: dir}.configPath(), filepath.Join(dir, "consul.pid")); p != nil {
		p.stop(stopGrace)
	}
}

// StopConsul stops a Consul that a dead agent left running, and removes its socket. It
// keeps Consul's data.
func StopConsul(stateDir string) error {
	dir := consulDir(stateDir)
	stopLeftover(dir)
	err := os.Remove(filepath.Join(dir, socketName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove Consul's socket: %w", err)
	}
	return nil
}

// takeSeat makes this host's Consul a server.
func (c *Consul) takeSeat() {
	c.mu.Lock()
	c.opts.Server, c.opts.First = true, false
	c.mu.Unlock()
	select {
	case c.anew <- struct{}{}:
	default:
	}
}

// leaveSeat makes this host's Consul a client. Consul leaves, so that the others remove
// it from the quorum, and then restarts.
func (c *Consul) leaveSeat(ctx context.Context) error {
	c.mu.Lock()
	c.opts.Server, c.opts.First, c.ends = false, false, true
	c.mu.Unlock()
	return c.client.leave(ctx)
}

// expected reports whether Consul was told to exit, and resets that.
func (c *Consul) expected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	ends := c.ends
	c.ends = false
	return ends
}

func (c *Consul) options() ConsulOptions {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.opts
}

// removeData stops a leftover Consul and deletes all its data.
func removeData(dir string) error {
	stopLeftover(dir)
	return os.RemoveAll(dir)
}
