package ovs

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/ovn-org/libovsdb/cache"
	"github.com/ovn-org/libovsdb/client"
	"github.com/ovn-org/libovsdb/model"
	"github.com/ovn-org/libovsdb/ovsdb"
)

// session is one connection to OVSDB with one monitor. Each connection is a new client
// with an empty cache. libovsdb's own reconnect keeps a cache that is unreliable after a
// restart of the server, and panics when it gives up.
type session struct {
	db    client.Client
	cache *cache.TableCache
	lost  chan struct{} // closed when the connection has ended
	end   sync.Once
}

func (s *Switch) dial(ctx context.Context) (*session, error) {
	dbModel, err := databaseModel()
	if err != nil {
		return nil, fmt.Errorf("model of %s: %w", dbName, err)
	}
	quiet := logr.Discard() // the default logger prints whole operations
	db, err := client.NewOVSDBClient(dbModel, client.WithEndpoint(s.cfg.Socket), client.WithLogger(&quiet))
	if err != nil {
		return nil, fmt.Errorf("client of %s: %w", s.cfg.Socket, err)
	}
	if err := db.Connect(ctx); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", s.cfg.Socket, err)
	}
	sess := &session{db: db, cache: db.Cache(), lost: make(chan struct{})}
	go sess.watch()
	sess.cache.AddEventHandler(&cache.EventHandlerFuncs{
		AddFunc:    func(string, model.Model) { s.wake.fire() },
		UpdateFunc: s.rowUpdated,
		DeleteFunc: s.rowDeleted,
	})
	if _, err := db.Monitor(ctx, db.NewMonitor(monitored()...)); err != nil {
		sess.close()
		return nil, fmt.Errorf("monitor %s: %w", dbName, err)
	}
	return sess, nil
}

// watch closes lost when the connection ends. libovsdb notifies only a receiver that is
// waiting at that moment, so watch also polls the state.
func (c *session) watch() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-c.lost:
			return
		case <-c.db.DisconnectNotify():
			c.close()
			return
		case <-tick.C:
			if !c.db.Connected() {
				c.close()
				return
			}
		}
	}
}

func (c *session) close() {
	c.end.Do(func() {
		close(c.lost)
		// Close waits for transactions in progress, which last until their deadlines if
		// the server hangs. Nobody else needs to wait for that.
		go c.db.Close()
	})
}

func (s *Switch) setSession(sess *session) {
	s.mu.Lock()
	s.session = sess
	s.mu.Unlock()
	s.wake.fire()
}

// connected returns the session. It waits for one while OVSDB is away, long enough for a
// restart of ovsdb-server but not longer: callers wait for the failure, and then for the
// undo.
func (s *Switch) connected(ctx context.Context) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, s.sessionTimeout)
	defer cancel()
	for {
		next := s.wake.next()
		s.mu.Lock()
		sess := s.session
		s.mu.Unlock()
		if sess != nil {
			select {
			case <-sess.lost:
			default:
				return sess, nil
			}
		}
		select {
		case <-next:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w at %s: %w", errNoSession, s.cfg.Socket, ctx.Err())
		}
	}
}

// errNoSession is an ErrUnavailable that means that OVSDB is away. A switch that does not
// open a port is ErrUnavailable too.
var errNoSession = fmt.Errorf("%w", ErrUnavailable)

// errUncertain means that a transaction was sent but its answer did not arrive.
var errUncertain = errors.New("it is not known whether the change was made")

// transact applies all operations or none, and checks the result of each.
func (s *Switch) transact(ctx context.Context, ops ...ovsdb.Operation) ([]ovsdb.OperationResult, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	sess, err := s.connected(ctx)
	if err != nil {
		return nil, err
	}
	results, err := sess.db.Transact(ctx, ops...)
	if err != nil {
		return nil, fmt.Errorf("%w at %s: %w: %w", ErrUnavailable, s.cfg.Socket, errUncertain, err)
	}
	if opErrs, err := ovsdb.CheckOperationResults(results, ops); err != nil {
		for _, e := range opErrs {
			err = fmt.Errorf("%w: %w", err, e)
		}
		return nil, err
	}
	return results, nil
}

// keepConnected opens a new session whenever the last one ends, until ctx ends.
func (s *Switch) keepConnected(ctx context.Context) error {
	// The back-off starts low because a restarting server is away for about 100 ms. It is
	// limited to a second because nothing works without the server.
	const first, most = 50 * time.Millisecond, time.Second
	probe := time.NewTicker(5 * time.Second)
	defer probe.Stop()
	wait := first
	for ctx.Err() == nil {
		s.mu.Lock()
		sess := s.session
		s.mu.Unlock()
		if sess == nil {
			if s.reconnect(ctx) {
				wait = first
				continue
			}
			select {
			case <-time.After(wait):
			case <-ctx.Done():
			}
			wait = min(2*wait, most)
			continue
		}
		select {
		case <-ctx.Done():
		case <-sess.lost:
			s.log.Warn("connection to ovsdb-server lost", "socket", s.cfg.Socket)
			s.setSession(nil)
		case <-probe.C:
			// A server that hangs keeps its socket open.
			s.probe(ctx, sess)
		case <-s.remake:
			s.repairBridge(ctx)
		}
	}
	return nil
}

func (s *Switch) reconnect(ctx context.Context) bool {
	dctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	sess, err := s.dial(dctx)
	if err != nil {
		s.log.Debug("ovsdb-server is still away", "socket", s.cfg.Socket, "err", err)
		return false
	}
	s.log.Info("connected to ovsdb-server", "socket", s.cfg.Socket)
	s.setSession(sess)
	s.repairBridge(ctx)
	s.notifyChanged()
	return true
}

func (s *Switch) probe(ctx context.Context, sess *session) {
	ectx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := sess.db.Echo(ectx); err != nil && ctx.Err() == nil {
		s.log.Warn("ovsdb-server does not answer", "socket", s.cfg.Socket, "err", err)
		sess.close()
		return
	}
	s.repairBridge(ctx)
}

// repairBridge writes the bridge's row again if it differs from the wanted one.
func (s *Switch) repairBridge(ctx context.Context) {
	wrote, err := s.ensureBridge(ctx)
	if err != nil {
		if ctx.Err() == nil {
			s.log.Warn("cannot repair the bridge", "bridge", s.cfg.Bridge, "err", err)
		}
		return
	}
	if wrote {
		s.log.Warn("bridge was changed by others; repaired", "bridge", s.cfg.Bridge)
		s.notifyChanged()
	}
}
