package ovs

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// A probe is a frame that this host's agent has the switch send through a peer's
// tunnel, as VXLAN with DF, like all that containers send. The peer's switch sends
// it back by itself, so the peer's agent need not run. Questions and answers have
// VNIs of their own, beyond those of networks made here (network.VNIBase): an answer
// is never answered. Their type is the first that IEEE Std 802 leaves to local
// experiments; containers send IPv4 and ARP only, and cannot choose a VNI.
const (
	probeVNI  = 0xffffff
	answerVNI = 0xfffffe
	probeType = 0x88b5
)

// probeReader is the controller id (ovs-actions(7), "controller") under which the
// switch hands the answers out. Other connections to the switch do not get them.
const probeReader = 0x7370

// Sizes of a probe's frame, in bytes: the smallest of Ethernet without its checksum,
// and the largest whose message fits the 16 bits of OpenFlow's length with room to spare.
const (
	MinProbe = 60
	MaxProbe = 65000
)

// Probe says how this host takes part in probing. The zero value: not at all.
type Probe struct {
	MAC string // where answers to this host are sent; only this host knows it
	MTU int    // of this host's underlay interface, in bytes; each answer tells it
}

// MACs of probes. What asks is sent to probeTarget. The source of an answer is
// answerSource with the MTU of the answering host in its last two bytes.
const probeTarget = "02:73:70:00:00:00"

var answerSource = [4]byte{0x02, 0x73, 0x70, 0x01}

func answerMAC(mtu int) string {
	b := append(answerSource[:], byte(mtu>>8), byte(mtu))
	return net.HardwareAddr(b).String()
}

func (p Probe) sane() Probe {
	p.MAC = parseMAC(p.MAC)
	if p.MAC == "" || p.MTU <= 0 || p.MTU > 0xffff {
		return Probe{}
	}
	return p
}

// probes renders the answer to peers' probes, and who hears the answers to ours.
// Frames come here from peers only: a tunnel hears its peer alone, and what comes
// from a port of this host has no VNI. An answer that is not for our secret MAC goes
// on like any frame of an unknown network, and is dropped.
func (r *rendering) probes(p Probe, self netip.Addr) {
	if p.MAC == "" || !self.Is4() {
		return
	}
	match := func(vni int, dst string) string {
		return fmt.Sprintf("tun_id=%#x,tun_dst=%s,dl_dst=%s,dl_type=%#x,%s", vni, self, dst, probeType, untagged)
	}
	r.add(tableClassify, 110, match(probeVNI, probeTarget),
		"move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],set_field:%s->eth_src,set_field:%#x->tun_id,in_port", answerMAC(p.MTU), answerVNI)
	r.add(tableClassify, 110, match(answerVNI, p.MAC), "controller(id=%d)", probeReader)
}

// Nonce tells one probe from all others.
type Nonce [16]byte

// Answer is a probe that came back.
type Answer struct {
	OFPort int // of the tunnel that it came by
	Size   int // of the whole frame, in bytes
	Nonce  Nonce
	MTU    int // of the answering host's underlay interface, as it says
}

// Prober sends probes and hears the answers. Send may be called concurrently, also
// with Receive.
type Prober struct {
	c   *flowCounter
	src net.HardwareAddr
	mu  sync.Mutex // guards writing
}

// OpenProber connects to the switch. mac is Probe.MAC.
func (s *Switch) OpenProber(ctx context.Context, mac string) (*Prober, error) {
	src, err := net.ParseMAC(mac)
	if err != nil || len(src) != 6 {
		return nil, fmt.Errorf("open a prober: MAC %q is none", mac)
	}
	c, err := dialCounter(ctx, s.controlPath())
	if err != nil {
		return nil, fmt.Errorf("open a prober: %w: %w", ErrUnavailable, err)
	}
	p := &Prober{c: c, src: src}
	if err := p.subscribe(); err != nil {
		c.close()
		return nil, fmt.Errorf("open a prober: %w", err)
	}
	return p, nil
}

// More messages of OpenFlow 1.3 (ONF TS-023), and one of Nicira's.
const (
	ofExperimenter = 4
	ofSetConfig    = 9
	ofPacketIn     = 10
	ofPacketOut    = 13
	ofBarrier      = 20 // the reply is 21
	ofBarrierRe    = 21
	ofSetAsync     = 28

	nxVendor          = 0x2320
	nxSetControllerID = 20

	ofppController = 0xfffffffd
	ofNoBuffer     = 0xffffffff
	ofReasonAction = 1 // of a packet: an action sent it here
	ofpatSetField  = 25

	oxmInPort    = 0x80000004
	oxmTunnelID  = 0x80004c08
	oxmRegister0 = 0x00010004
)

// subscribe has the switch hand the answers out, and nothing else.
func (p *Prober) subscribe() error {
	async := make([]byte, 24) // masks of packet, port and flow messages, as controller and as secondary
	binary.BigEndian.PutUint32(async, 1<<ofReasonAction)
	if err := p.c.write(ofSetAsync, 0, async); err != nil {
		return err
	}
	id := make([]byte, 16)
	binary.BigEndian.PutUint32(id, nxVendor)
	binary.BigEndian.PutUint32(id[4:], nxSetControllerID)
	binary.BigEndian.PutUint16(id[14:], probeReader)
	if err := p.c.write(ofExperimenter, 0, id); err != nil {
		return err
	}
	// A connection that names no length gets no packets at all.
	return p.c.write(ofSetConfig, 0, []byte{0, 0, 0xff, 0xff})
}

// Send has the switch send a probe of size bytes, from MinProbe to MaxProbe, by a
// tunnel's port.
func (p *Prober) Send(ofport, size int, nonce Nonce) error {
	if size < MinProbe || size > MaxProbe || ofport <= 0 || ofport > maxOFPort {
		return fmt.Errorf("probe of %d bytes by port %d: out of range", size, ofport)
	}
	actions := make([]byte, 16+16)
	binary.BigEndian.PutUint16(actions, ofpatSetField)
	binary.BigEndian.PutUint16(actions[2:], 16)
	binary.BigEndian.PutUint32(actions[4:], oxmTunnelID)
	binary.BigEndian.PutUint64(actions[8:], probeVNI)
	output := actions[16:] // OFPAT_OUTPUT is 0
	binary.BigEndian.PutUint16(output[2:], 16)
	binary.BigEndian.PutUint32(output[4:], uint32(ofport))
	frame := make([]byte, size)
	target, err := net.ParseMAC(probeTarget)
	if err != nil {
		return err
	}
	copy(frame, target)
	copy(frame[6:], p.src)
	binary.BigEndian.PutUint16(frame[12:], probeType)
	copy(frame[14:], nonce[:])
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.c.write(ofPacketOut, 0, packetOut(frame, actions))
}

// packetOut is the body of a message that has the switch do actions with a frame.
func packetOut(frame, actions []byte) []byte {
	body := make([]byte, 16, 16+len(actions)+len(frame))
	binary.BigEndian.PutUint32(body, ofNoBuffer)
	binary.BigEndian.PutUint32(body[4:], ofppController)
	binary.BigEndian.PutUint16(body[8:], uint16(len(actions)))
	return append(append(body, actions...), frame...)
}

// Receive waits for an answer. The error says that the connection is of no more use.
func (p *Prober) Receive() (Answer, error) {
	if err := p.c.conn.SetReadDeadline(time.Time{}); err != nil {
		return Answer{}, err
	}
	for {
		kind, xid, body, err := readMessage(p.c.in)
		if err != nil {
			return Answer{}, err
		}
		switch kind {
		case ofEchoRequest:
			p.mu.Lock()
			err = p.c.write(ofEchoReply, xid, body)
			p.mu.Unlock()
			if err != nil {
				return Answer{}, err
			}
		case ofPacketIn:
			if a, ok := parseAnswer(body); ok {
				return a, nil
			}
		}
	}
}

// Close ends the connection, and Receive.
func (p *Prober) Close() { p.c.close() }

// readMessage reads one message. The switch hands answers out whole; OpenFlow's
// length has 16 bits.
func readMessage(in *bufio.Reader) (kind byte, xid uint32, body []byte, err error) {
	var head [ofHeaderLen]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return 0, 0, nil, err
	}
	length := int(binary.BigEndian.Uint16(head[2:])) - ofHeaderLen
	if length < 0 {
		return 0, 0, nil, errBroken
	}
	body = make([]byte, length)
	_, err = io.ReadFull(in, body)
	return head[1], binary.BigEndian.Uint32(head[4:]), body, err
}

// parseAnswer reads a packet that the switch handed out (OFPT_PACKET_IN).
func parseAnswer(body []byte) (Answer, bool) {
	const fixed = 16 // buffer, length, reason, table, cookie
	if len(body) < fixed+4 {
		return Answer{}, false
	}
	a := Answer{Size: int(binary.BigEndian.Uint16(body[4:]))}
	match := int(binary.BigEndian.Uint16(body[fixed+2:])) // with its header, without its padding
	padded := (match + 7) / 8 * 8
	frameAt := fixed + padded + 2
	if match < 4 || len(body) < frameAt {
		return Answer{}, false
	}
	for fields := body[fixed+4 : fixed+match]; len(fields) >= 4; {
		length := int(fields[3])
		if len(fields) < 4+length {
			return Answer{}, false
		}
		if binary.BigEndian.Uint32(fields) == oxmInPort {
			a.OFPort = int(binary.BigEndian.Uint32(fields[4:]))
		}
		fields = fields[4+length:]
	}
	frame := body[frameAt:]
	if len(frame) < 14+len(a.Nonce) || [4]byte(frame[6:]) != answerSource || binary.BigEndian.Uint16(frame[12:]) != probeType || a.OFPort == 0 {
		return Answer{}, false
	}
	a.MTU = int(binary.BigEndian.Uint16(frame[10:]))
	a.Nonce = Nonce(frame[14:])
	return a, true
}

// barrier waits until the switch has done all that it was told.
func (c *flowCounter) barrier() error {
	if err := c.write(ofBarrier, 0, nil); err != nil {
		return err
	}
	for {
		kind, _, _, err := readMessage(c.in)
		if err != nil || kind == ofBarrierRe {
			return err
		}
	}
}
