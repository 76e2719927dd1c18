package ovs

import (
	"context"
	"errors"
	"net"
	"time"
)

// switchPoll is the pause between attempts to connect while ovs-vswitchd is away.
// countEvery is the interval at which watchFlows counts the flows.
const (
	switchPoll = 50 * time.Millisecond
	countEvery = 5 * time.Second
)

// watchFlows signals Changed if ovs-vswitchd has restarted, which OVSDB does not show, or
// if the number of our flows is wrong.
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

// followFlows compares the number of our flows with the expected one until the connection
// breaks. A restarted switch has lost its flows. followFlows signals Changed only when
// the switch answers, because it accepts no flows before.
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
			continue // the switch may hang while ovsdb-server is away; the connection is not lost
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

// flowCensus is the expected number of flows at one moment.
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

// differs reports whether a count differs from the census taken before the request. A
// count is useless if flows were applied meanwhile. If the expected flows are unknown, a
// caller is about to set them.
func (m *flowMemory) differs(before flowCensus, flows int) bool {
	now := m.census()
	if before.busy || now.busy || now.epoch != before.epoch || !before.known {
		return false
	}
	return flows != before.flows
}
