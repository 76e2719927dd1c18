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
	// stopGrace is how long Consul may take to end: it writes down what it has.
	stopGrace = 5 * time.Second
	// backOff and maxBackOff bound the pause before Consul is started again;
	// one that lived for steady is started at once.
	backOff    = 500 * time.Millisecond
	maxBackOff = 30 * time.Second
	steady     = time.Minute
)

// Consul runs this host's Consul.
type Consul struct {
	logger *slog.Logger
	client consulClient

	mu   sync.Mutex
	opts ConsulOptions
	anew chan struct{} // the options have changed
	ends bool          // it was told to end by itself
}

// NewConsul makes the keeper of a Consul. Nothing runs before Run.
func NewConsul(opts ConsulOptions, logger *slog.Logger) *Consul {
	return &Consul{opts: opts, logger: logger, client: newConsulClient(opts.socket()), anew: make(chan struct{}, 1)}
}

// Run keeps Consul running until ctx ends, and then stops it. One that an agent
// which was killed has left behind is taken over, if it runs as it should.
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

// wait pauses and gives the next pause.
func wait(ctx context.Context, d time.Duration) time.Duration {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
	return min(d*2, maxBackOff)
}

// begin takes the running Consul over or starts one.
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
		// What a server knew of its quorum must not come back with it.
		if err := os.RemoveAll(filepath.Join(opts.Dir, "data", "raft")); err != nil {
			return nil, false, err
		}
	}
	p, err = startConsul(opts.Binary, config, filepath.Join(opts.Dir, "consul.log"), pidFile)
	return p, false, err
}

// stopLeftover ends a Consul that an earlier life left behind.
func stopLeftover(dir string) {
	if p := runningConsul(ConsulOptions{Dir: dir}.configPath(), filepath.Join(dir, "consul.pid")); p != nil {
		p.stop(stopGrace)
	}
}

// StopConsul ends a Consul that an agent which is gone has left running, and removes
// its socket. What Consul knows stays.
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

// leaveSeat makes this host's Consul a client: it leaves, so that the others
// take it out of the quorum, and comes again.
func (c *Consul) leaveSeat(ctx context.Context) error {
	c.mu.Lock()
	c.opts.Server, c.opts.First, c.ends = false, false, true
	c.mu.Unlock()
	return c.client.leave(ctx)
}

// expected says, once, whether Consul was told to end.
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

// removeData forgets all that a Consul has kept.
func removeData(dir string) error {
	stopLeftover(dir)
	return os.RemoveAll(dir)
}
