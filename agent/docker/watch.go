package docker

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
)

const (
	// slowestRetry is the longest pause between attempts to connect to dockerd.
	slowestRetry = 2 * time.Second
	// sweepEvery is the interval of sweeps during a connection. They are needed because
	// dockerd drops events if a listener is too slow.
	sweepEvery = time.Minute
)

// Follower receives Docker's events. If a method returns an error, the Watcher reconnects
// and sweeps again.
type Follower interface {
	// Sweep compares the state of Docker with that of the agent, at the start of every
	// connection and at intervals, so that changes are found whose events were missed.
	Sweep(ctx context.Context, engine *Engine) error
	// Event handles one event. The same event may arrive twice.
	Event(ctx context.Context, engine *Engine, e Event) error
}

// Event is a Docker event that followers handle.
type Event struct {
	Kind      EventKind
	ID        string // of the container or network
	Name      string // of the network, or the new one of the container
	Container string // container that joined or left the network
}

// EventKind is the kind of an Event.
type EventKind string

// Kinds of events.
const (
	ContainerMade    EventKind = "container made"
	ContainerRemoved EventKind = "container removed"
	ContainerRenamed EventKind = "container renamed"
	NetworkMade      EventKind = "network made"
	NetworkRemoved   EventKind = "network removed"
	NetworkJoined    EventKind = "network joined"
	NetworkLeft      EventKind = "network left"
)

// WatcherConfig configures a Watcher.
type WatcherConfig struct {
	Socket    string // unix socket of dockerd
	Followers []Follower
	// Slow are followers that may take long. Each has its own connection, so that it does
	// not delay events for the others.
	Slow   []Follower
	Logger *slog.Logger
}

// Watcher passes Docker's events to its followers. Sweeps cover the time when it was not
// connected.
type Watcher struct {
	config WatcherConfig
	up     bool   // the last connection worked
	said   string // the last failure that was logged
}

// NewWatcher returns a Watcher.
func NewWatcher(config WatcherConfig) *Watcher { return &Watcher{config: config} }

// Run watches until ctx ends and then returns nil. dockerd may be absent, start and stop
// in the meantime.
func (w *Watcher) Run(ctx context.Context) error {
	var beside sync.WaitGroup
	defer beside.Wait()
	for _, slow := range w.config.Slow {
		own := NewWatcher(WatcherConfig{Socket: w.config.Socket, Followers: []Follower{slow}, Logger: w.config.Logger.With("follower", fmt.Sprintf("%T", slow))})
		beside.Go(func() { _ = own.Run(ctx) }) // always returns nil
	}
	pause := 100 * time.Millisecond
	for {
		err := w.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if w.up { // the connection had worked: start with short pauses again
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

// down logs that watching failed. It does not log the same failure twice in a row.
func (w *Watcher) down(err error) {
	if w.up || w.said != err.Error() {
		w.config.Logger.Warn("docker is not being watched; trying again", "err", err)
	}
	w.up, w.said = false, err.Error()
}

// session handles one connection: it subscribes, sweeps, and follows the events. It always
// returns an error.
func (w *Watcher) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	engine, err := Dial("unix://" + w.config.Socket)
	if err != nil {
		return err
	}
	defer engine.Close() //nolint:errcheck // only read from
	// dockerd answers shortly before it has subscribed us, so request the events of the
	// last two seconds too. Duplicates are harmless.
	filters := make(client.Filters).
		Add("type", string(events.ContainerEventType), string(events.NetworkEventType)).
		Add("event", string(events.ActionDestroy), string(events.ActionCreate), string(events.ActionConnect), string(events.ActionDisconnect), string(events.ActionRename))
	stream := engine.cli.Events(ctx, client.EventsListOptions{
		Since:   strconv.FormatInt(time.Now().Add(-2*time.Second).Unix(), 10),
		Filters: filters,
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
			if err := w.tell(ctx, engine, message); err != nil {
				return err
			}
		case <-tick.C:
			if err := w.sweep(ctx, engine); err != nil {
				return err
			}
		}
	}
}

func (w *Watcher) sweep(ctx context.Context, engine *Engine) error {
	for _, f := range w.config.Followers {
		if err := f.Sweep(ctx, engine); err != nil {
			return err
		}
	}
	return nil
}

func (w *Watcher) tell(ctx context.Context, engine *Engine, m events.Message) error {
	e := Event{ID: m.Actor.ID}
	switch {
	case m.Type == events.ContainerEventType && m.Action == events.ActionCreate:
		e.Kind = ContainerMade
	case m.Type == events.ContainerEventType && m.Action == events.ActionDestroy:
		e.Kind = ContainerRemoved
	case m.Type == events.ContainerEventType && m.Action == events.ActionRename:
		e.Kind, e.Name = ContainerRenamed, m.Actor.Attributes["name"]
	case m.Type == events.NetworkEventType && m.Action == events.ActionCreate:
		e.Kind, e.Name = NetworkMade, m.Actor.Attributes["name"]
	case m.Type == events.NetworkEventType && m.Action == events.ActionDestroy:
		e.Kind, e.Name = NetworkRemoved, m.Actor.Attributes["name"]
	case m.Type == events.NetworkEventType && m.Action == events.ActionConnect:
		e.Kind, e.Name, e.Container = NetworkJoined, m.Actor.Attributes["name"], m.Actor.Attributes["container"]
	case m.Type == events.NetworkEventType && m.Action == events.ActionDisconnect:
		e.Kind, e.Name, e.Container = NetworkLeft, m.Actor.Attributes["name"], m.Actor.Attributes["container"]
	default:
		return nil
	}
	for _, f := range w.config.Followers {
		if err := f.Event(ctx, engine, e); err != nil {
			return err
		}
	}
	return nil
}
