package docker

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
	"github.com/socketplane/socketplane/agent/api"
)

const (
	// slowestRetry is the longest pause before dockerd is tried again.
	slowestRetry = 2 * time.Second
	// sweepEvery is how often the comparison is made although events come: dockerd
	// drops those that a listener is too slow for.
	sweepEvery = time.Minute
)

// WatcherConfig says where dockerd is.
type WatcherConfig struct {
	Socket string // unix socket of dockerd
	Logger *slog.Logger
}

// Watcher releases what belonged to containers that were removed, also those
// that were removed while nobody watched.
type Watcher struct {
	config WatcherConfig
	svc    api.Service
	up     bool   // dockerd answered last time
	said   string // the last failure that was logged
}

// NewWatcher makes a Watcher that releases through svc.
func NewWatcher(config WatcherConfig, svc api.Service) *Watcher {
	return &Watcher{config: config, svc: svc}
}

// Run watches until ctx ends; then it gives nil. dockerd may be absent, come,
// go and come again.
func (w *Watcher) Run(ctx context.Context) error {
	pause := 100 * time.Millisecond
	for {
		err := w.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if w.up { // it had worked: begin with short pauses again
			pause = 100 * time.Millisecond
		}
		w.down(err)
		retry := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			retry.Stop()
			return nil
		case <-retry.C:
		}
		pause = min(2*pause, slowestRetry)
	}
}

// down logs that watching failed, once until it works again or fails otherwise.
func (w *Watcher) down(err error) {
	if w.up || w.said != err.Error() {
		w.config.Logger.Warn("docker is not being watched; trying again", "err", err)
	}
	w.up, w.said = false, err.Error()
}

// session is one connection: subscribe, compare, then follow the events. It
// ends with an error.
func (w *Watcher) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	engine, err := Dial("unix://" + w.config.Socket)
	if err != nil {
		return err
	}
	defer engine.Close() //nolint:errcheck // only read from
	// dockerd answers a moment before it has subscribed us: ask for the last
	// seconds too. A container that is told of twice does no harm.
	stream := engine.cli.Events(ctx, client.EventsListOptions{
		Since:   strconv.FormatInt(time.Now().Add(-2*time.Second).Unix(), 10),
		Filters: make(client.Filters).Add("type", string(events.ContainerEventType)).Add("event", string(events.ActionDestroy)),
	})
	if err := w.sweep(ctx, engine); err != nil {
		return err
	}
	if !w.up {
		w.config.Logger.Info("docker is being watched", "socket", w.config.Socket)
	}
	w.up, w.said = true, ""
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-stream.Err:
			return fmt.Errorf("docker's events: %w", err)
		case message := <-stream.Messages:
			if message.Type == events.ContainerEventType && message.Action == events.ActionDestroy {
				if err := w.destroyed(ctx, message.Actor.ID); err != nil {
					return err
				}
			}
		case <-tick.C:
			if err := w.sweep(ctx, engine); err != nil {
				return err
			}
		}
	}
}

// destroyed releases the endpoint of a container, if it has one.
func (w *Watcher) destroyed(ctx context.Context, id string) error {
	e, err := w.svc.Endpoint(ctx, id)
	if api.CodeOf(err) == api.CodeNotFound {
		return nil
	}
	if err != nil {
		return fmt.Errorf("endpoint of removed container %s: %w", id, err)
	}
	if e.ID != id || e.Source != api.SourceDocker {
		return nil
	}
	return w.release(ctx, e)
}

// sweep releases the endpoints whose container is gone. The endpoints are read
// first: a container that is made meanwhile is in the later list at least.
func (w *Watcher) sweep(ctx context.Context, engine *Engine) error {
	endpoints, err := w.svc.Endpoints(ctx)
	if err != nil {
		return fmt.Errorf("list endpoints: %w", err)
	}
	list, err := engine.cli.ContainerList(ctx, client.ContainerListOptions{All: true})
	if err != nil {
		return fmt.Errorf("docker's containers: %w", err)
	}
	there := make(map[string]bool, len(list.Items))
	for _, c := range list.Items {
		there[c.ID] = true
	}
	for _, e := range endpoints {
		if e.Source != api.SourceDocker || there[e.ID] {
			continue
		}
		if err := w.release(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

func (w *Watcher) release(ctx context.Context, e api.Endpoint) error {
	if err := w.svc.Release(ctx, e.ID); err != nil {
		return fmt.Errorf("release removed container %s: %w", e.ID, err)
	}
	w.config.Logger.Info("released what a removed container had", "container", e.ID, "network", e.Network, "endpoint", e.IP.String())
	return nil
}
