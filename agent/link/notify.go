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

// WatchHost calls changed when the kernel says that something may have gone which
// is set on the host for our networks: an address, a route or the state of a
// gateway port, a default route, forwarding, an nftables table, chain or rule of
// ours. It is a hint, and may be of our own doing; whoever is called compares. own
// says of a netlink port whether who has it writes iptables rules for us: that is no
// news. What the kernel says nothing of (sysctls of one interface, legacy iptables)
// is found by comparing now and then. It ends with ctx, with nil.
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

// subscribe follows one kind of news until ctx ends.
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
			changed(syscall.NetlinkMessage{}) // what was missed meanwhile
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
		case errors.Is(err, unix.ENOBUFS): // there was more news than room
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

// Messages of nfnetlink's subsystem nftables, linux/netfilter/nf_tables.h, that
// tell of something that went.
var nftGone = map[uint16]bool{
	unix.NFT_MSG_DELTABLE: true, unix.NFT_MSG_DELCHAIN: true, unix.NFT_MSG_DELRULE: true,
	unix.NFT_MSG_DELSET: true, unix.NFT_MSG_DELSETELEM: true,
}

// ourNames are what our tables and chains are called: this package's and package
// firewall's, and the chains of package nat, which jumps name as well.
var ourNames = [][]byte{[]byte("socketplane\x00"), []byte(ourChains)}

// ourChains begins the names of package nat's chains.
const ourChains = "SOCKETPLANE-"

// isOurRule says whether a message of nftables tells of the end of something of
// ours, of a rule that somebody put into a table or chain of ours or where our jump
// has to come first, or of a bridge of Docker's.
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
		// A bridge of Docker's has come or gone, see DockersBridges.
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
		// The chain of an endpoint goes after its interface, by our own hand.
		if name := nameOf(m, unix.NFTA_CHAIN_NAME); name != "" {
			return linkExists(name)
		}
	}
	return true
}

// dockerUserChain is made by Docker when it starts, with a jump to it at the top of
// FORWARD, and is jumped from by package nat.
const dockerUserChain = "DOCKER-USER"

// comesBefore says whether a new rule in a chain may be in the way of ours.
func comesBefore(chain string) bool {
	return chain == "FORWARD" || strings.HasPrefix(chain, ourChains)
}

// nameOf gives a string of a message of nftables, empty where it has none.
func nameOf(m syscall.NetlinkMessage, kind uint16) string {
	attrs, err := nl.ParseRouteAttr(m.Data[nl.SizeofNfgenmsg:])
	for _, a := range attrs {
		if err == nil && a.Attr.Type == kind {
			return string(bytes.TrimRight(a.Value, "\x00"))
		}
	}
	return ""
}

// isOurNetwork says whether a message of rtnetlink tells of a change that may
// concern a gateway port, the way out, or forwarding.
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

// isDownGateway says whether a gateway port was set down.
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

// isOurRoute says whether a route by a gateway port has gone, or a default route
// has come or gone.
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

// netconfIfindex and allInterfaces are NETCONFA_IFINDEX and NETCONFA_IFINDEX_ALL
// of linux/netconf.h. Forwarding of all interfaces is net.ipv4.ip_forward.
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
