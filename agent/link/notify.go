package link

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// WatchHost calls changed when the kernel reports that a setting of our networks on the
// host may be gone: an address, a route or the state of a gateway port, a default route,
// forwarding, or an nftables table, chain or rule of ours. A call is a hint, and our own
// change can cause it, so changed must compare with the kernel. own reports whether the
// process with a netlink port writes iptables rules for us; WatchHost ignores its
// messages. The kernel does not report some changes (sysctls of one interface, legacy
// iptables); only a periodic comparison finds those. WatchHost returns nil when ctx ends.
func (l *Links) WatchHost(ctx context.Context, own func(port uint32) bool, changed func()) error {
	l.watchHost(ctx, own, func(syscall.NetlinkMessage) { changed() })
	return nil
}

// watchHost is WatchHost that says which message is the news. It is the zero one where
// messages were missed.
func (l *Links) watchHost(ctx context.Context, own func(port uint32) bool, changed func(syscall.NetlinkMessage)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.subscribe(ctx, "nftables", unix.NETLINK_NETFILTER, []uint{unix.NFNLGRP_NFTABLES}, func(m syscall.NetlinkMessage) bool {
			return isOurRule(m) && !own(m.Header.Pid)
		}, changed)
	}()
	l.subscribe(ctx, "addresses and routes", unix.NETLINK_ROUTE, []uint{
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_NETCONF,
	}, l.isOurNetwork, changed)
	<-done
}

// subscribe follows one kind of notification until ctx ends.
func (l *Links) subscribe(ctx context.Context, what string, protocol int, groups []uint, ours func(syscall.NetlinkMessage) bool, changed func(syscall.NetlinkMessage)) {
	said := false
	for ctx.Err() == nil {
		heard := false
		err := follow(ctx, protocol, groups, func(m syscall.NetlinkMessage) bool { heard = true; return ours(m) }, changed)
		if ctx.Err() != nil {
			return
		}
		if !said {
			l.log.Warn("changes that others make to the host are found later", "what", what, "err", err)
			said = true
		}
		if heard {
			changed(syscall.NetlinkMessage{}) // for changes missed while not subscribed
		}
		retry := time.NewTimer(watchRetry)
		select {
		case <-ctx.Done():
		case <-retry.C:
		}
		retry.Stop()
	}
}

func follow(ctx context.Context, protocol int, groups []uint, ours func(syscall.NetlinkMessage) bool, changed func(syscall.NetlinkMessage)) error {
	s, err := nl.Subscribe(protocol, groups...)
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	defer s.Close()
	defer context.AfterFunc(ctx, s.Close)()
	for {
		messages, _, err := s.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS): // notifications overran the socket buffer
			changed(syscall.NetlinkMessage{})
			continue
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case err != nil:
			return fmt.Errorf("receive: %w", err)
		}
		for _, m := range messages {
			if ours(m) {
				changed(m)
				break
			}
		}
	}
}

// nftGone are the nfnetlink messages of the nftables subsystem
// (linux/netfilter/nf_tables.h) that report a removal.
var nftGone = map[uint16]bool{
	unix.NFT_MSG_DELTABLE: true, unix.NFT_MSG_DELCHAIN: true, unix.NFT_MSG_DELRULE: true,
	unix.NFT_MSG_DELSET: true, unix.NFT_MSG_DELSETELEM: true,
}

// ourNames are the name of our tables and the prefix of our chains. This package and
// package firewall use the table name. The chains of package nat have the prefix, and
// jump rules contain it too.
var ourNames = [][]byte{[]byte("socketplane\x00"), []byte(ourChains)}

// ourChains is the prefix of the chain names of package nat.
const ourChains = "SOCKETPLANE-"

// isOurRule reports whether an nftables message announces one of these: the removal of
// something of ours, a new rule in a table or chain of ours or in a chain where our jump
// must come first, or a change of Docker's bridges.
func isOurRule(m syscall.NetlinkMessage) bool {
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.Data) < nl.SizeofNfgenmsg {
		return false
	}
	switch ipv4 := m.Data[0] == unix.NFPROTO_IPV4; {
	case m.Header.Type&0xff == unix.NFT_MSG_NEWRULE:
		return ipv4 && (bytes.Contains(m.Data, ourNames[0]) || comesBefore(nameOf(m, unix.NFTA_RULE_CHAIN)))
	case m.Header.Type&0xff == unix.NFT_MSG_NEWCHAIN && ipv4 && nameOf(m, unix.NFTA_CHAIN_NAME) == dockerUserChain:
		return true
	}
	if m.Header.Type&0xff == unix.NFT_MSG_NEWCHAIN || m.Header.Type&0xff == unix.NFT_MSG_DELCHAIN {
		// Docker has added or removed a bridge, see DockersBridges.
		if m.Data[0] == unix.NFPROTO_IPV4 && bytes.Contains(m.Data, []byte(dockersTable+"\x00")) && bytes.Contains(m.Data, []byte(dockersChain)) {
			return true
		}
	}
	if !nftGone[m.Header.Type&0xff] {
		return false
	}
	named := false
	for _, name := range ourNames {
		named = named || bytes.Contains(m.Data, name)
	}
	if !named {
		return false
	}
	if m.Data[0] == unix.NFPROTO_NETDEV && m.Header.Type&0xff == unix.NFT_MSG_DELCHAIN {
		// The kernel removes an endpoint's chain after its interface, when we remove
		// both.
		if name := nameOf(m, unix.NFTA_CHAIN_NAME); name != "" {
			return linkExists(name)
		}
	}
	return true
}

// dockerUserChain is a chain that Docker creates when it starts, with a jump to it at the
// top of FORWARD. Package nat adds a jump to this chain.
const dockerUserChain = "DOCKER-USER"

// comesBefore reports whether a new rule in a chain can precede one of ours.
func comesBefore(chain string) bool {
	return chain == "FORWARD" || strings.HasPrefix(chain, ourChains)
}

// nameOf returns a string attribute of an nftables message, or "" if it has none.
func nameOf(m syscall.NetlinkMessage, kind uint16) string {
	attrs, err := nl.ParseRouteAttr(m.Data[nl.SizeofNfgenmsg:])
	for _, a := range attrs {
		if err == nil && a.Attr.Type == kind {
			return string(bytes.TrimRight(a.Value, "\x00"))
		}
	}
	return ""
}

// isOurNetwork reports whether an rtnetlink message announces a change that may affect a
// gateway port, a default route, or forwarding.
func (l *Links) isOurNetwork(m syscall.NetlinkMessage) bool {
	switch m.Header.Type {
	case unix.RTM_NEWLINK:
		return len(m.Data) >= unix.SizeofIfInfomsg && isDownGateway(m.Data)
	case unix.RTM_DELADDR:
		// IFA_LABEL is the interface's name.
		return bytes.Contains(m.Data, []byte(GatewayPrefix))
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return l.isOurRoute(m)
	case unix.RTM_NEWNETCONF:
		return isAllNetconf(m.Data)
	}
	return false
}

// isDownGateway reports whether the link is a gateway port that is down.
func isDownGateway(data []byte) bool {
	flags := binary.NativeEndian.Uint32(data[8:]) // struct ifinfomsg, rtnetlink(7)
	if flags&unix.IFF_UP != 0 {
		return false
	}
	attrs, err := nl.ParseRouteAttr(data[unix.SizeofIfInfomsg:])
	for _, a := range attrs {
		if err == nil && a.Attr.Type == unix.IFLA_IFNAME {
			return strings.HasPrefix(string(a.Value), GatewayPrefix)
		}
	}
	return false
}

// isOurRoute reports whether a route through a gateway port was removed, or a default
// route was added or removed.
func (l *Links) isOurRoute(m syscall.NetlinkMessage) bool {
	if len(m.Data) < unix.SizeofRtMsg {
		return false
	}
	if length := m.Data[1]; length == 0 { // rtm_dst_len
		return true
	}
	if m.Header.Type != unix.RTM_DELROUTE {
		return false
	}
	attrs, err := nl.ParseRouteAttr(m.Data[unix.SizeofRtMsg:])
	for _, a := range attrs {
		if err == nil && a.Attr.Type == unix.RTA_OIF && len(a.Value) == 4 {
			return l.isGateway(int(binary.NativeEndian.Uint32(a.Value)))
		}
	}
	return false
}

func (l *Links) isGateway(index int) bool {
	c, err := l.acquire()
	if err != nil {
		return true
	}
	defer l.release(c)
	link, err := c.LinkByIndex(index)
	return err == nil && strings.HasPrefix(link.Attrs().Name, GatewayPrefix)
}

// netconfIfindex and allInterfaces are NETCONFA_IFINDEX and NETCONFA_IFINDEX_ALL of
// linux/netconf.h. The forwarding setting of all interfaces is net.ipv4.ip_forward.
const (
	netconfIfindex = 1
	allInterfaces  = -1
)

func isAllNetconf(data []byte) bool {
	const header = 4 // struct netconfmsg, one byte, aligned
	if len(data) < header {
		return false
	}
	attrs, err := nl.ParseRouteAttr(data[header:])
	for _, a := range attrs {
		if err == nil && a.Attr.Type == netconfIfindex && len(a.Value) == 4 {
			return int32(binary.NativeEndian.Uint32(a.Value)) == allInterfaces
		}
	}
	return false
}
