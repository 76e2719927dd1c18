package ovs

import (
	"context"
	"errors"
	"net"
	"time"
)

// How often the switch is looked for while it is away, and its flows are
// counted while it is there.
const (
	switchPoll = 50 * time.Millisecond
	countEvery = 5 * time.Second
)

// watchFlows notices that ovs-vswitchd was restarted, which OVSDB does not
// show, or that flows of ours are missing, and says Changed.
func (s *Switch) watchFlows(ctx context.Context) error {
	tick := time.NewTicker(switchPoll)
	defer tick.Stop()
	away := false
	for ctx.Err() == nil {
		c, err := dialCounter(ctx, s.controlPath())
		if err == nil {
			stop := context.AfterFunc(ctx, c.close)
			s.followFlows(ctx, c, &away)
			stop()
			c.close()
		}
		if !away && ctx.Err() == nil {
			s.log.Warn("ovs-vswitchd is away", "bridge", s.cfg.Bridge)
			s.flows.forget()
			away = true
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	return nil
}

// followFlows compares the number of our flows with what was set until the
// connection breaks. A switch that came back has lost its flows; Changed is due
// only once it answers, for before it takes none.
func (s *Switch) followFlows(ctx context.Context, c *flowCounter, away *bool) {
	var (
		xid     uint32
		pending bool
		asked   flowCensus
	)
	for ctx.Err() == nil {
		if !pending {
			xid++
			asked = s.flows.census()
			if c.ask(xid) != nil {
				return
			}
			pending = true
		}
		id, flows, err := c.next(time.Now().Add(countEvery))
		if netErr := net.Error(nil); errors.As(err, &netErr) && netErr.Timeout() {
			continue // it may hang while ovsdb-server is away; it is not lost
		}
		if err != nil {
			return
		}
		if id != xid {
			continue
		}
		pending = false
		if *away {
			s.log.Info("ovs-vswitchd is back", "bridge", s.cfg.Bridge, "flows", flows)
			*away = false
			s.flows.forget()
			s.notifyChanged()
		} else if s.flows.differs(asked, flows) {
			s.log.Warn("flows are missing or too many on the switch", "bridge", s.cfg.Bridge, "flows", flows)
			s.flows.forget()
			s.notifyChanged()
		}
		if _, _, err := c.next(time.Now().Add(countEvery)); err != nil {
			if netErr := net.Error(nil); !errors.As(err, &netErr) || !netErr.Timeout() {
				return
			}
		}
	}
}

// flowCensus is how many flows there should be, at one moment.
type flowCensus struct {
	epoch uint64
	known bool
	flows int
	busy  bool
}

func (m *flowMemory) census() flowCensus {
	m.mu.Lock()
	defer m.mu.Unlock()
	return flowCensus{epoch: m.epoch, known: m.known != nil, flows: len(m.known), busy: m.inUse}
}

// differs compares a count with the census taken before it was asked for. A
// count during which flows were applied says nothing. While it is not known
// what was set, somebody is about to set it.
func (m *flowMemory) differs(before flowCensus, flows int) bool {
	now := m.census()
	if before.busy || now.busy || now.epoch != before.epoch || !before.known {
		return false
	}
	return flows != before.flows
}
