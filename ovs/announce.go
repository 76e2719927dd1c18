package ovs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// If the switch cannot answer an ARP request yet, the endpoint repeats it after a second,
// and its first packet waits as long. So the switch remembers unanswered requests for
// some seconds. When it can answer for a new address, the agent makes it tell the local
// members of the network, if one of them had asked. No list is needed: a learned flow in
// tableAsked remembers the request. The agent sends one frame for each new address, and
// the switch drops the frame if nobody asked.
const (
	tableAsked = 11 // addresses of unanswered requests; the switch fills it
	tableTell  = 12 // sends to the local members of a network

	askedCookie = Cookie<<32 | 1<<25 // the VNI follows
	askedFor    = 3                  // seconds; a kernel asks three times, once a second
	// askedLimit limits the learned flows of a network's containers. Each request changes
	// the switch's tables, and makes it revalidate its cached flows.
	askedLimit = 128
)

// remember renders the flow that learns the requests that no other flow of a table
// answers.
func (r *rendering) remember(table int, g Segment) {
	r.add(table, 10, fmt.Sprintf("arp,reg0=%#x,arp_op=1", g.VNI), "%s", asking(g))
}

// asking returns the action that remembers a question.
func asking(g Segment) string {
	return fmt.Sprintf("learn(table=%d,priority=100,cookie=%#x,limit=%d,hard_timeout=%d,eth_type=0x806,NXM_NX_REG0[],"+
		"NXM_OF_ARP_SPA[]=NXM_OF_ARP_TPA[],load:1->NXM_NX_REG4[0])",
		tableAsked, askedCookie|uint64(g.VNI), askedLimit, askedFor)
}

// asked renders which requests the switch remembers and which ports it notifies.
func (r *rendering) asked(g Segment) {
	r.remember(tableAnswer, g)
	tell := ""
	for _, l := range g.Local {
		tell += fmt.Sprintf("output:%d,", l.OFPort)
	}
	if g.GatewayPort > 0 { // processes of the host ask too
		tell += fmt.Sprintf("output:%d,", g.GatewayPort)
	}
	if tell != "" {
		r.add(tableTell, 100, fmt.Sprintf("reg0=%#x,reg4=0x1", g.VNI), "%s", tell[:len(tell)-1])
	}
}

// announcement is an address that the switch can now answer for.
type announcement struct {
	vni uint32
	ip  netip.Addr
	mac net.HardwareAddr
}

// maxAnnounced limits the frames of one change. When a host comes back with all of its
// endpoints, containers ask again for many of them anyway.
const maxAnnounced = 256

// announced matches the ARP answer for an address (see rendering.answer) in the commands
// that changes and parseDiff return.
var announced = regexp.MustCompile(`^add table=2\b[^a]*\barp,reg0=(0x[0-9a-f]+),(?:arp_op=1,)?arp_tpa=([0-9.]+)(?:,arp_op=1)? .*?actions=move:[^,]*,set_field:([0-9a-f:]{17})->eth_src`)

// news returns the addresses that the switch can answer for after these changes.
func news(lines []string) []announcement {
	var list []announcement
	for _, line := range lines {
		if !strings.HasPrefix(line, "add table=2") || len(list) == maxAnnounced {
			continue
		}
		m := announced.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		vni, err1 := strconv.ParseUint(m[1], 0, 24)
		ip, err2 := netip.ParseAddr(m[2])
		mac, err3 := net.ParseMAC(m[3])
		if err := errors.Join(err1, err2, err3); err != nil || !ip.Is4() {
			continue // not a line of ours
		}
		list = append(list, announcement{vni: uint32(vni), ip: ip, mac: mac})
	}
	return list
}

// frame returns a gratuitous ARP reply (RFC 5227). A kernel accepts it only for an
// address that it has asked for.
func (a announcement) frame() []byte {
	everybody := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	ip := a.ip.As4()
	f := append(append(everybody, a.mac...), 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 2)
	f = append(append(f, a.mac...), ip[:]...)
	f = append(append(f, a.mac...), ip[:]...)
	return append(f, make([]byte, MinProbe-len(f))...)
}

// announceTimeout limits one announcement; nothing depends on its success.
const announceTimeout = 2 * time.Second

// announce notifies the local members of addresses that they have asked for.
func (s *Switch) announce(ctx context.Context, list []announcement) error {
	ctx, cancel := context.WithTimeout(ctx, announceTimeout)
	defer cancel()
	c, err := dialCounter(ctx, s.controlPath())
	if err != nil {
		return err
	}
	defer c.close()
	stop := context.AfterFunc(ctx, c.close)
	defer stop()
	for _, a := range list {
		if err := c.write(ofPacketOut, 0, packetOut(a.frame(), a.actions())); err != nil {
			return err
		}
	}
	return c.barrier()
}

// actions returns the actions that check whether somebody asked and then tell the
// members.
func (a announcement) actions() []byte {
	return append(append(setRegister0(a.vni), resubmit(tableAsked)...), resubmit(tableTell)...)
}

// setRegister0 returns the action OFPAT_SET_FIELD for NXM_NX_REG0.
func setRegister0(v uint32) []byte {
	a := make([]byte, 16)
	binary.BigEndian.PutUint16(a, ofpatSetField)
	binary.BigEndian.PutUint16(a[2:], 16)
	binary.BigEndian.PutUint32(a[4:], oxmRegister0)
	binary.BigEndian.PutUint32(a[8:], v)
	return a
}

// resubmit returns Nicira's action NXAST_RESUBMIT_TABLE.
func resubmit(table byte) []byte {
	a := make([]byte, 16)
	binary.BigEndian.PutUint16(a, 0xffff) // OFPAT_EXPERIMENTER
	binary.BigEndian.PutUint16(a[2:], 16)
	binary.BigEndian.PutUint32(a[4:], nxVendor)
	binary.BigEndian.PutUint16(a[8:], 14)
	binary.BigEndian.PutUint16(a[10:], 0xfff8) // OFPP_IN_PORT: unchanged
	a[12] = table
	return a
}

// telling is what members are still to be told, and the goroutine that tells them. There
// is at most one, and only while something is to be told.
type telling struct {
	mu      sync.Mutex
	pending []announcement // the newest maxAnnounced
	cancel  func()         // ends the goroutine; nil: there is none
	closed  bool
	wg      sync.WaitGroup
}

// tell announces the new addresses of flow changes in the background.
func (s *Switch) tell(lines []string) {
	list := news(lines)
	if len(list) == 0 {
		return
	}
	q := &s.telling
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	q.pending = append(q.pending, list...)
	q.pending = slices.Clone(q.pending[max(0, len(q.pending)-maxAnnounced):])
	if q.cancel != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	q.cancel = cancel
	q.wg.Go(func() {
		defer cancel()
		for list := q.next(); list != nil; list = q.next() {
			if err := s.announce(ctx, list); err != nil {
				s.log.Debug("members were not told of new addresses; they ask again", "bridge", s.cfg.Bridge, "err", err)
			}
		}
	})
}

// next takes what is to be told. When that is nothing, it is nil, and the goroutine ends.
func (q *telling) next() []announcement {
	q.mu.Lock()
	defer q.mu.Unlock()
	list := q.pending
	q.pending = nil
	if list == nil {
		q.cancel = nil
	}
	return list
}

// close ends the telling for good and waits for its end.
func (q *telling) close() {
	q.mu.Lock()
	q.closed, q.pending = true, nil
	if q.cancel != nil {
		q.cancel()
	}
	q.mu.Unlock()
	q.wg.Wait()
}
