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

// A probe is a frame that this host's agent makes the switch send through a peer's
// tunnel, as VXLAN with DF, like all packets of containers. The peer's switch returns it,
// so the peer's agent need not run. Requests and answers have their own VNIs above those
// of networks made here (network.VNIBase), so no switch answers an answer. The EtherType
// is the first one that IEEE Std 802 reserves for local experiments. Containers send only
// IPv4 and ARP and cannot choose a VNI.
const (
	probeVNI  = 0xffffff
	answerVNI = 0xfffffe
	probeType = 0x88b5
)

// probeReader is the controller id (ovs-actions(7), "controller") of the connection that
// receives the answers. Other connections to the switch do not get them.
const probeReader = 0x7370

// Limits of a probe's frame size in bytes. MinProbe is the smallest Ethernet frame
// without its checksum. MaxProbe leaves spare room in an OpenFlow message, whose length
// field has 16 bits.
const (
	MinProbe = 60
	MaxProbe = 65000
)

// Probe describes this host's part in probing. With the zero value it takes no part.
type Probe struct {
	MAC string // destination of answers to this host; known only to this host
	MTU int    // of this host's underlay interface, in bytes; its answers contain it
}

// MAC addresses of probes. A request has the destination probeTarget. An answer has the
// source answerSource, with the MTU of the answering host in the last two bytes.
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

// probes renders the flow that answers peers' probes and the flow that delivers the
// answers to ours. Both match only frames from peers: a tunnel accepts only its peer, and
// frames from a local port have no VNI. An answer for a MAC address other than our secret
// one continues like a frame of an unknown network and is dropped.
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

// Nonce distinguishes a probe from all others.
type Nonce [16]byte

// Answer is a probe that a peer's switch returned.
type Answer struct {
	OFPort int // of the tunnel by which it came
	Size   int // of the whole frame, in bytes
	Nonce  Nonce
	MTU    int // of the answering host's underlay interface in bytes, as that host reports
}

// Prober sends probes and receives the answers. Send is safe for concurrent use, also
// with Receive.
type Prober struct {
	c   *flowCounter
	src net.HardwareAddr
	mu  sync.Mutex // guards writes to c
}

// OpenProber connects to the switch. mac is Probe.MAC. The error wraps ErrUnavailable if
// the switch cannot be reached.
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

// More messages of OpenFlow 1.3 (ONF TS-023) and one Nicira extension.
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
	ofReasonAction = 1 // an action sent the packet here
	ofpatSetField  = 25

	oxmInPort    = 0x80000004
	oxmTunnelID  = 0x80004c08
	oxmRegister0 = 0x00010004
)

// subscribe makes the switch deliver the answers to this connection, and no other
// messages.
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
	// A connection that sets no miss length gets no packets.
	return p.c.write(ofSetConfig, 0, []byte{0, 0, 0xff, 0xff})
}

// Send makes the switch send a probe of size bytes, from MinProbe to MaxProbe, through a
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

// packetOut returns the body of a message that makes the switch apply actions to a frame.
func packetOut(frame, actions []byte) []byte {
	body := make([]byte, 16, 16+len(actions)+len(frame))
	binary.BigEndian.PutUint32(body, ofNoBuffer)
	binary.BigEndian.PutUint32(body[4:], ofppController)
	binary.BigEndian.PutUint16(body[8:], uint16(len(actions)))
	return append(append(body, actions...), frame...)
}

// Receive waits for an answer. After an error the connection is unusable.
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

// Close closes the connection and ends Receive.
func (p *Prober) Close() { p.c.close() }

// readMessage reads one message. The switch delivers answers untruncated. The length
// needs no limit, because its field has 16 bits.
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

// parseAnswer parses a packet from the switch (OFPT_PACKET_IN).
func parseAnswer(body []byte) (Answer, bool) {
	const fixed = 16 // buffer, length, reason, table, cookie
	if len(body) < fixed+4 {
		return Answer{}, false
	}
	a := Answer{Size: int(binary.BigEndian.Uint16(body[4:]))}
	match := int(binary.BigEndian.Uint16(body[fixed+2:])) // includes the header but not the padding
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

// barrier waits until the switch has processed all earlier messages.
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
