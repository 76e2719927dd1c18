package firewall

import (
	"fmt"
	"hash/fnv"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// rule is one rule: its expressions and a comment for operators. The comment also
// distinguishes it from any other rule.
type rule struct {
	exprs   []expr.Any
	comment string
}

// matcher is a condition. It uses register 1 (NFT_REG_1).
type matcher []expr.Any

const register = 1

func newRule(about string, matchers []matcher, end ...expr.Any) rule {
	var exprs []expr.Any
	for _, m := range matchers {
		exprs = append(exprs, m...)
	}
	exprs = append(exprs, end...)
	digest := fnv.New32a()
	for _, e := range exprs {
		fmt.Fprintf(digest, "%T%+v\n", e, e)
	}
	return rule{exprs: exprs, comment: fmt.Sprintf("%s [%08x]", about, digest.Sum32())}
}

func drop(about string, matchers ...matcher) rule {
	return newRule(about, matchers, &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop})
}

// accept accepts a packet in this chain. The table's other chains and all other firewalls
// still judge it.
func accept(about string, matchers ...matcher) rule {
	return newRule(about, matchers, &expr.Verdict{Kind: expr.VerdictAccept})
}

func jump(to string, matchers ...matcher) rule {
	return newRule("to "+to, matchers, &expr.Verdict{Kind: expr.VerdictJump, Chain: to})
}

// from matches the interface on which a packet arrived. A name that ends in * matches all
// interfaces with that prefix.
func from(name string) matcher { return fromOp(name, expr.CmpOpEq) }

func notFrom(name string) matcher { return fromOp(name, expr.CmpOpNeq) }

func fromOp(name string, op expr.CmpOp) matcher {
	data := []byte(name)
	if last := len(data) - 1; data[last] == '*' {
		data = data[:last] // the kernel compares only these bytes
	} else {
		data = append(data, make([]byte, unix.IFNAMSIZ-len(data))...)
	}
	return matcher{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: register},
		&expr.Cmp{Op: op, Register: register, Data: data},
	}
}

// Offsets of the ports in the headers of UDP (RFC 768) and TCP (RFC 9293).
const (
	sportOffset = 0
	dportOffset = 2
)

// sport matches the source port, and dport the destination port.
func sport(p Port) matcher { return portAt(sportOffset, p) }
func dport(p Port) matcher { return portAt(dportOffset, p) }

func portAt(offset uint32, p Port) matcher {
	return matcher{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{p.Proto}},
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: binaryutil.BigEndian.PutUint16(p.Number)},
	}
}

// Offsets of the addresses in the IPv4 header (RFC 791).
const (
	sourceOffset      = 12
	destinationOffset = 16
)

func sourceIsHost() matcher      { return inHosts(sourceOffset) }
func destinationIsHost() matcher { return inHosts(destinationOffset) }

func inHosts(offset uint32) matcher {
	return matcher{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Lookup{SourceRegister: register, SetName: hostsSet},
	}
}

// cameTheWayBack matches packets that arrived on an interface by which an answer would
// leave: strict reverse path filtering, RFC 3704.
func cameTheWayBack() matcher {
	return matcher{
		&expr.Fib{Register: register, ResultOIF: true, FlagSADDR: true, FlagIIF: true, FlagPRESENT: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{1}},
	}
}

// forwarded matches packets that arrived on an interface. In the postrouting hook,
// kernels before 5.7 do not know that interface, so it matches nothing.
func forwarded() matcher {
	return matcher{
		&expr.Meta{Key: expr.MetaKeyIIF, Register: register},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: make([]byte, 4)},
	}
}

// sourceRewritten matches packets of a connection with source NAT, in the direction of
// the first packet.
func sourceRewritten() matcher {
	const (
		original  = 0      // IP_CT_DIR_ORIGINAL
		sourceNAT = 1 << 4 // IPS_SRC_NAT
	)
	status := binaryutil.NativeEndian.PutUint32
	return matcher{
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{original}},
		&expr.Ct{Key: expr.CtKeySTATUS, Register: register},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: status(sourceNAT), Xor: status(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: status(0)},
	}
}

// notRoot matches packets from a socket of a user other than root.
func notRoot() matcher {
	return matcher{
		&expr.Meta{Key: expr.MetaKeySKUID, Register: register},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: binaryutil.NativeEndian.PutUint32(0)},
	}
}

// notMarked matches packets with another mark or none.
func notMarked(mark uint32) matcher {
	return matcher{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: binaryutil.NativeEndian.PutUint32(mark)},
	}
}

// hostsSet is the name of the set with the tunnel addresses of the hosts.
const hostsSet = "hosts"

func newHostsSet(t *nftables.Table) *nftables.Set {
	return &nftables.Set{Name: hostsSet, Table: t, KeyType: nftables.TypeIPAddr}
}
