package ovs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// An endpoint that asked for an address by ARP before the switch could answer asks
// again after a second, and its first packet waits as long. So the switch remembers
// for some seconds which addresses were asked for in vain; and when it learns one, the
// agent has it tell the members of the network here, if somebody had asked. Nobody
// keeps a list: the question is remembered by a learned flow in tableAsked, and the
// answer is one frame for each address that is new, which the switch drops if nobody
// asked.
const (
	tableAsked = 11 // addresses asked for in vain; the switch fills it
	tableTell  = 12 // tells this host's members of a network

	askedCookie = Cookie<<32 | 1<<25 // the VNI follows
	askedFor    = 3                  // seconds; a kernel asks three times, once a second
	// askedLimit bounds what a network's containers can have remembered: each question
	// changes the switch's tables, which makes it look at its cached flows again.
	askedLimit = 128
)

// remember renders the memory of questions that no other flow of a table answers.
func (r *rendering) remember(table int, g Segment) {
	r.add(table, 10, fmt.Sprintf("arp,reg0=%#x,arp_op=1", g.VNI), "%s", asking(g))
}

// asking returns the action that remembers a question.
func asking(g Segment) string {
	return fmt.Sprintf("learn(table=%d,priority=100,cookie=%#x,limit=%d,hard_timeout=%d,eth_type=0x806,NXM_NX_REG0[],"+
		"NXM_OF_ARP_SPA[]=NXM_OF_ARP_TPA[],load:1->NXM_NX_REG4[0])",
		tableAsked, askedCookie|uint64(g.VNI), askedLimit, askedFor)
}

// asked renders which questions are remembered, and who is told.
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

// announcement is an address that the switch can answer for now.
type announcement struct {
	vni uint32
	ip  netip.Addr
	mac net.HardwareAddr
}

// maxAnnounced bounds the frames of one change: of a host that comes back with all of
// its endpoints many are asked for again anyway.
const maxAnnounced = 256

// announced finds an answer for an address (see rendering.answer) among the lines that
// change flows, those of changes and those of parseDiff.
var announced = regexp.MustCompile(`^add table=2\b[^a]*\barp,reg0=(0x[0-9a-f]+),(?:arp_op=1,)?arp_tpa=([0-9.]+)(?:,arp_op=1)? .*?actions=move:[^,]*,set_field:([0-9a-f:]{17})->eth_src`)

// news finds the addresses for which the switch answers since these changes.
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
			continue // no line of ours
		}
		list = append(list, announcement{vni: uint32(vni), ip: ip, mac: mac})
	}
	return list
}

// frame is a gratuitous ARP reply (RFC 5227): kernels take it for an address that
// they have asked for, and for no other.
func (a announcement) frame() []byte {
	everybody := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	ip := a.ip.As4()
	f := append(append(everybody, a.mac...), 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 2)
	f = append(append(f, a.mac...), ip[:]...)
	f = append(append(f, a.mac...), ip[:]...)
	return append(f, make([]byte, MinProbe-len(f))...)
}

// announceTimeout bounds telling; nothing depends on it.
const announceTimeout = 2 * time.Second

// announce tells this host's members of addresses that they have asked for.
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

// actions look up whether somebody asked, and tell.
func (a announcement) actions() []byte {
	return append(append(setRegister0(a.vni), resubmit(tableAsked)...), resubmit(tableTell)...)
}

// setRegister0 is OFPAT_SET_FIELD of NXM_NX_REG0.
func setRegister0(v uint32) []byte {
	a := make([]byte, 16)
	binary.BigEndian.PutUint16(a, ofpatSetField)
	binary.BigEndian.PutUint16(a[2:], 16)
	binary.BigEndian.PutUint32(a[4:], oxmRegister0)
	binary.BigEndian.PutUint32(a[8:], v)
	return a
}

// resubmit is Nicira's NXAST_RESUBMIT_TABLE.
func resubmit(table byte) []byte {
	a := make([]byte, 16)
	binary.BigEndian.PutUint16(a, 0xffff) // OFPAT_EXPERIMENTER
	binary.BigEndian.PutUint16(a[2:], 16)
	binary.BigEndian.PutUint32(a[4:], nxVendor)
	binary.BigEndian.PutUint16(a[8:], 14)
	binary.BigEndian.PutUint16(a[10:], 0xfff8) // OFPP_IN_PORT: as it is
	a[12] = table
	return a
}

// tell announces what is new since changes of flows, beside what goes on.
func (s *Switch) tell(lines []string) {
	list := news(lines)
	if len(list) == 0 {
		return
	}
	go func() {
		if err := s.announce(context.Background(), list); err != nil {
			s.log.Debug("members were not told of new addresses; they ask again", "bridge", s.cfg.Bridge, "err", err)
		}
	}()
}
