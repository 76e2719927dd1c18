package ovs

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// The OpenFlow 1.3 messages (ONF TS-023) that are needed to keep a connection to the
// switch open and to count flows. ovs-ofctl writes the flows.
const (
	ofVersion     = 4
	ofHello       = 0
	ofEchoRequest = 2
	ofEchoReply   = 3
	ofMultipart   = 18 // request; the reply is 19
	ofMultipartRe = 19
	ofpmAggregate = 2
	ofHeaderLen   = 8
)

// flowCounter is a connection to the switch that returns the number of our flows. It
// breaks within milliseconds when ovs-vswitchd dies. The switch sends no packets to it:
// it sends them only to controllers.
type flowCounter struct {
	conn net.Conn
	in   *bufio.Reader
}

func dialCounter(ctx context.Context, path string) (*flowCounter, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	c := &flowCounter{conn: conn, in: bufio.NewReader(conn)}
	if err := c.write(ofHello, 0, nil); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return c, nil
}

func (c *flowCounter) write(kind byte, xid uint32, body []byte) error {
	msg := make([]byte, ofHeaderLen, ofHeaderLen+len(body))
	msg[0], msg[1] = ofVersion, kind
	binary.BigEndian.PutUint16(msg[2:], uint16(ofHeaderLen+len(body)))
	binary.BigEndian.PutUint32(msg[4:], xid)
	if err := c.conn.SetWriteDeadline(time.Now().Add(callTimeout)); err != nil {
		return err
	}
	_, err := c.conn.Write(append(msg, body...))
	return err
}

// ask requests the number of flows with our cookie in all tables.
func (c *flowCounter) ask(xid uint32) error {
	body := make([]byte, 48)
	binary.BigEndian.PutUint16(body[0:], ofpmAggregate)
	body[8] = 0xff                                    // OFPTT_ALL
	binary.BigEndian.PutUint32(body[12:], 0xffffffff) // OFPP_ANY
	binary.BigEndian.PutUint32(body[16:], 0xffffffff) // OFPG_ANY
	binary.BigEndian.PutUint64(body[24:], Cookie)
	binary.BigEndian.PutUint64(body[32:], ^uint64(0))
	binary.BigEndian.PutUint16(body[40:], 1) // OFPMT_OXM
	binary.BigEndian.PutUint16(body[42:], 4) // an empty match
	return c.write(ofMultipart, xid, body)
}

// errBroken means that a message was incomplete. It does not wrap a timeout, because the
// position in the stream is lost.
var errBroken = errors.New("switch sent half a message")

// next reads messages until a reply to ask arrives or the deadline passes. At the
// deadline it returns a net.Error with Timeout. It answers the echo requests of the
// switch.
func (c *flowCounter) next(deadline time.Time) (xid uint32, flows int, err error) {
	if err := c.conn.SetReadDeadline(deadline); err != nil {
		return 0, 0, err
	}
	for {
		// Peek, so that a deadline in the middle of a header loses no bytes.
		head, err := c.in.Peek(ofHeaderLen)
		if err != nil {
			return 0, 0, err
		}
		kind, length := head[1], int(binary.BigEndian.Uint16(head[2:]))
		id := binary.BigEndian.Uint32(head[4:])
		if length < ofHeaderLen {
			return 0, 0, fmt.Errorf("switch sent a message of %d bytes", length)
		}
		if kind != ofEchoRequest && kind != ofMultipartRe {
			if _, err := c.in.Discard(length); err != nil {
				return 0, 0, fmt.Errorf("%w: %s", errBroken, err.Error())
			}
			continue
		}
		msg := make([]byte, length)
		if _, err := io.ReadFull(c.in, msg); err != nil {
			return 0, 0, fmt.Errorf("%w: %s", errBroken, err.Error())
		}
		if kind == ofEchoRequest {
			if err := c.write(ofEchoReply, id, msg[ofHeaderLen:]); err != nil {
				return 0, 0, err
			}
			continue
		}
		// Header (8), type, flags and padding (8), packets (8), bytes (8), flows (4).
		if length >= 36 && binary.BigEndian.Uint16(msg[8:]) == ofpmAggregate {
			return id, int(binary.BigEndian.Uint32(msg[32:])), nil
		}
	}
}

func (c *flowCounter) close() { _ = c.conn.Close() }
