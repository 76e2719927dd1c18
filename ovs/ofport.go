package ovs

import (
	"context"
	"errors"
	"fmt"
)

// maxOFPort is the largest port number that we request: OFPP_MAX of OpenFlow 1.0. Larger
// numbers have special meanings, and OVS rejects requests for them.
const maxOFPort = 0xfeff

// reserveOFPort reserves the smallest number that no port of the bridge has or requests,
// no call in progress has reserved, and no flow uses. If a flow still used the number,
// one endpoint would receive another's packets. The reservation lasts until release; by
// then the cache has the number.
func (s *Switch) reserveOFPort(sess *session, name string) (int, func()) {
	used := s.flows.ports()
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := range s.bridgeOFPorts(sess, name) {
		used[n] = true
	}
	n := 1
	for n < maxOFPort && (used[n] || s.reserved[n] != "") {
		n++
	}
	s.reserved[n] = name
	return n, func() {
		s.mu.Lock()
		delete(s.reserved, n)
		s.mu.Unlock()
	}
}

// bridgeOFPorts returns the numbers of the bridge's ports, except the named port.
func (s *Switch) bridgeOFPorts(sess *session, except string) map[int]bool {
	used := map[int]bool{}
	b := s.cachedBridge(sess)
	if b == nil {
		return used
	}
	ports := sess.cache.Table(tablePort).RowsShallow()
	ifaces := sess.cache.Table(tableInterface).RowsShallow()
	for _, uuid := range b.Ports {
		port, ok := ports[uuid].(*portRow)
		if !ok || port.Name == except {
			continue
		}
		for _, i := range port.Interfaces {
			if iface, ok := ifaces[i].(*interfaceRow); ok {
				used[deref(iface.OFPort)] = true
				used[deref(iface.OFPortRequest)] = true
			}
		}
	}
	return used
}

// awaitOFPort waits until the switch has assigned a number to the interface and returns
// it. A row in the database does not mean that the port is live.
func (s *Switch) awaitOFPort(ctx context.Context, name string) (int, error) {
	wctx, cancel := context.WithTimeout(ctx, portTimeout)
	defer cancel()
	ofport := 0
	err := s.await(wctx, func() (bool, error) {
		sess, err := s.connected(wctx)
		if err != nil {
			return false, err
		}
		iface := cachedInterface(sess, name)
		if iface == nil {
			return false, nil
		}
		if msg := deref(iface.Error); msg != "" {
			return false, errors.New(msg)
		}
		ofport = deref(iface.OFPort)
		if ofport < 0 {
			return false, fmt.Errorf("ovs-vswitchd could not open it (ofport %d); its log says why", ofport)
		}
		return ofport > 0, nil
	})
	if err != nil && ctx.Err() == nil && wctx.Err() != nil {
		return 0, fmt.Errorf("%w: ovs-vswitchd did not open the port within %s; is it running?", ErrUnavailable, portTimeout)
	}
	return ofport, err
}

// lockName locks the port of that name, so that only one call at a time changes it. It
// returns the unlock function.
func (s *Switch) lockName(ctx context.Context, name string) (func(), error) {
	for {
		s.mu.Lock()
		held := s.busy[name]
		if held == nil {
			done := make(chan struct{})
			s.busy[name] = done
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				delete(s.busy, name)
				s.mu.Unlock()
				close(done)
			}, nil
		}
		s.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
