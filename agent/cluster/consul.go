package cluster

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	// stopGrace is how long Consul may take to end: it writes down what it has.
	stopGrace = 10 * time.Second
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
}

// NewConsul makes the keeper of a Consul. Nothing runs before Run.
func NewConsul(opts ConsulOptions, logger *slog.Logger) *Consul {
	return &Consul{opts: opts, logger: logger, client: newConsulClient(opts.Ports.HTTP), anew: make(chan struct{}, 1)}
}

// Run keeps Consul running until ctx ends, and then stops it. One that an agent
// which was killed has left behind is taken over, if it runs as it should.
func (c *Consul) Run(ctx context.Context) error {
	logs := newConsulLog(filepath.Join(c.options().Dir, "consul.log"), c.logger)
	var done sync.WaitGroup
	defer done.Wait()
	follow, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	pause, failing := backOff, false
	following := false
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
		if !following {
			following = true
			logs.begin(adopted)
			done.Go(func() { logs.follow(follow) })
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
	config, same, err := opts.writeConfig()
	if err != nil {
		return nil, false, err
	}
	pidFile := filepath.Join(opts.Dir, "consul.pid")
	if p := runningConsul(config, pidFile); p != nil {
		if same {
			return p, true, nil
		}
		p.stop(stopGrace)
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

// SetServer makes this host's Consul a server or a client, with its data kept.
func (c *Consul) SetServer(server bool) {
	c.mu.Lock()
	c.opts.Server, c.opts.First = server, false
	c.mu.Unlock()
	select {
	case c.anew <- struct{}{}:
	default:
	}
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
