package link

import (
	"encoding/binary"
	"iter"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Constants of the kernel's ctnetlink that package nl lacks, from
// linux/netfilter/nfnetlink_conntrack.h. The flags are from net/netfilter/nf_internals.h.
const (
	ctaFilter           = 25
	ctaFilterOrigFlags  = 1
	ctaFilterReplyFlags = 2

	filterSource      = 1 << 0 // CTA_FILTER_F_CTA_IP_SRC
	filterDestination = 1 << 1
	filterProto       = 1 << 3
	filterDestPort    = 1 << 5
)

// tuple is one direction of an IPv4 connection.
type tuple struct {
	src, dst netip.Addr
	proto    uint8
	dport    uint16
}

// tupleQuery requests the connections that have some fields of a tuple in one direction.
type tupleQuery struct {
	reply bool // match the direction of the replies
	flags uint32
	tuple tuple
}

// shows reports whether a connection matches the query.
func (q tupleQuery) shows(orig, reply tuple) bool {
	t := orig
	if q.reply {
		t = reply
	}
	return (q.flags&filterSource == 0 || t.src == q.tuple.src) &&
		(q.flags&filterDestination == 0 || t.dst == q.tuple.dst) &&
		(q.flags&filterProto == 0 || t.proto == q.tuple.proto) &&
		(q.flags&filterDestPort == 0 || t.dport == q.tuple.dport)
}

// run calls f with each connection message from the kernel until f returns false. The
// message is valid only during the call. An interrupted dump returns some of the
// connections and netlink.ErrDumpInterrupted.
func (q tupleQuery) run(f func(raw []byte) bool) error {
	req := ctRequest(nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP)
	if q.flags != 0 {
		for _, attr := range q.attributes() {
			req.AddData(attr)
		}
	}
	return req.ExecuteIter(unix.NETLINK_NETFILTER, 0, f)
}

func (q tupleQuery) attributes() []nl.NetlinkRequestData {
	direction, flags := nl.CTA_TUPLE_ORIG, ctaFilterOrigFlags
	if q.reply {
		direction, flags = nl.CTA_TUPLE_REPLY, ctaFilterReplyFlags
	}
	t := nl.NewRtAttr(unix.NLA_F_NESTED|direction, nil)
	if q.flags&(filterSource|filterDestination) != 0 {
		ip := t.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_IP, nil)
		if q.flags&filterSource != 0 {
			ip.AddRtAttr(nl.CTA_IP_V4_SRC, q.tuple.src.AsSlice())
		}
		if q.flags&filterDestination != 0 {
			ip.AddRtAttr(nl.CTA_IP_V4_DST, q.tuple.dst.AsSlice())
		}
	}
	if q.flags&filterProto != 0 {
		proto := t.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_PROTO, nil)
		proto.AddRtAttr(nl.CTA_PROTO_NUM, nl.Uint8Attr(q.tuple.proto))
		if q.flags&filterDestPort != 0 {
			proto.AddRtAttr(nl.CTA_PROTO_DST_PORT, nl.BEUint16Attr(q.tuple.dport))
		}
	}
	filter := nl.NewRtAttr(unix.NLA_F_NESTED|ctaFilter, nil)
	filter.AddRtAttr(flags, nl.Uint32Attr(q.flags))
	return []nl.NetlinkRequestData{t, filter}
}

func ctRequest(operation, flags int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|operation, flags)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_INET, Version: nl.NFNETLINK_V0})
	return req
}

// parseConnection returns the two directions of a connection. Fields that it cannot parse
// stay zero.
func parseConnection(raw []byte) (orig, reply tuple) {
	if len(raw) < nl.SizeofNfgenmsg {
		return orig, reply
	}
	for kind, value := range attributes(raw[nl.SizeofNfgenmsg:]) {
		switch kind {
		case nl.CTA_TUPLE_ORIG:
			orig = parseTuple(value)
		case nl.CTA_TUPLE_REPLY:
			reply = parseTuple(value)
		}
	}
	return orig, reply
}

func parseTuple(b []byte) tuple {
	var t tuple
	for part, b := range attributes(b) {
		for kind, value := range attributes(b) {
			switch {
			case part == nl.CTA_TUPLE_IP && kind == nl.CTA_IP_V4_SRC:
				t.src, _ = netip.AddrFromSlice(value)
			case part == nl.CTA_TUPLE_IP && kind == nl.CTA_IP_V4_DST:
				t.dst, _ = netip.AddrFromSlice(value)
			case part == nl.CTA_TUPLE_PROTO && kind == nl.CTA_PROTO_NUM && len(value) == 1:
				t.proto = value[0]
			case part == nl.CTA_TUPLE_PROTO && kind == nl.CTA_PROTO_DST_PORT && len(value) == 2:
				t.dport = binary.BigEndian.Uint16(value)
			}
		}
	}
	return t
}

// attributes iterates over the netlink attributes in b by type, and stops at the first
// one that is incomplete. It does not allocate, because a table may hold hundreds of
// thousands of connections.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofNlAttr {
			length := int(binary.NativeEndian.Uint16(b))
			kind := binary.NativeEndian.Uint16(b[2:]) & nl.NLA_TYPE_MASK
			if length < unix.SizeofNlAttr || length > len(b) || !yield(kind, b[unix.SizeofNlAttr:length]) {
				return
			}
			b = b[min((length+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1), len(b)):]
		}
	}
}
