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
	// slowestRetry is the longest pause before dockerd is tried again.
	slowestRetry = 2 * time.Second
	// sweepEvery is how often the comparison is made although events come: dockerd
	// drops those that a listener is too slow for.
	sweepEvery = time.Minute
)

// Follower is told what goes on in Docker. An error begins the connection anew,
// and with it the sweep.
type Follower interface {
	// Sweep compares what is there, at the beginning of every connection and now
	// and then: nothing that happened unseen stays unnoticed.
	Sweep(ctx context.Context, engine *Engine) error
	// Event is one thing that happened. It may come twice.
	Event(ctx context.Context, engine *Engine, e Event) error
}

// Event is one that followers care for.
type Event struct {
	Kind      EventKind
	ID        string // of the container or network
	Name      string // of the network, or the new one of the container
	Container string // that joined the network, or left it
}

// EventKind says what happened.
type EventKind string

// The kinds.
const (
	ContainerMade    EventKind = "container made"
	ContainerRemoved EventKind = "container removed"
	ContainerRenamed EventKind = "container renamed"
	NetworkMade      EventKind = "network made"
	NetworkRemoved   EventKind = "network removed"
	NetworkJoined    EventKind = "network joined"
	NetworkLeft      EventKind = "network left"
)

// WatcherConfig says where dockerd is.
type WatcherConfig struct {
	Socket    string // unix socket of dockerd
	Followers []Follower
	// Slow are followers that may take long. Each has a connection of its own, so that
	// the others hear of Docker's events meanwhile.
	Slow   []Follower
	Logger *slog.Logger
}

// Watcher tells its followers what goes on in Docker, also what went on while
// nobody watched.
type Watcher struct {
	config WatcherConfig
	up     bool   // dockerd answered last time
	said   string // the last failure that was logged
}

// NewWatcher makes a Watcher.
func NewWatcher(config WatcherConfig) *Watcher { return &Watcher{config: config} }

// Run watches until ctx ends; then it gives nil. dockerd may be absent, come,
// go and come again.
func (w *Watcher) Run(ctx context.Context) error {
	var beside sync.WaitGroup
	defer beside.Wait()
	for _, slow := range w.config.Slow {
		own := NewWatcher(WatcherConfig{Socket: w.config.Socket, Followers: []Follower{slow}, Logger: w.config.Logger.With("follower", fmt.Sprintf("%T", slow))})
		beside.Go(func() { _ = own.Run(ctx) }) // it gives nil
	}
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
	// seconds too. What is told twice does no harm.
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
