package ovs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/ovn-org/libovsdb/ovsdb"
)

// Tunnel is a VXLAN tunnel to one peer.
type Tunnel struct {
	Peer   string     // the peer's host id
	Remote netip.Addr // the peer's VTEP
	Local  netip.Addr // this host's VTEP; zero: the kernel chooses
	Mark   uint32     // fwmark of the packets that the kernel datapath sends; 0: none
}

// tunnelPrefix is the prefix of the names of all tunnel ports.
const tunnelPrefix = "vxlan-"

// TunnelName returns the port name of a peer's tunnel. It is a hash, so that no string
// from outside becomes part of an interface name, and so that it fits 15 bytes
// (IFNAMSIZ).
func TunnelName(peer string) string {
	sum := sha256.Sum256([]byte(peer))
	return tunnelPrefix + hex.EncodeToString(sum[:])[:9]
}

func (t Tunnel) check() error {
	switch {
	case t.Peer == "":
		return errors.New("it has no peer")
	case !t.Remote.IsValid() || t.Remote.IsUnspecified() || t.Remote.IsMulticast() || t.Remote.IsLoopback() || t.Remote.Zone() != "":
		return fmt.Errorf("VTEP %s is not the address of another host", t.Remote)
	case t.Local.IsValid() && t.Local.Is4() != t.Remote.Is4():
		return fmt.Errorf("VTEP %s and ours, %s, are not of one IP version", t.Remote, t.Local)
	case t.Remote == t.Local:
		return fmt.Errorf("VTEP %s is our own", t.Remote)
	}
	return nil
}

// spec sets a fixed remote address, because remote_ip=flow would accept frames from any
// address. The flows set the key, so one tunnel carries all networks.
func (t Tunnel) spec() portSpec {
	options := map[string]string{"remote_ip": t.Remote.String(), "key": "flow"}
	if t.Local.IsValid() {
		options["local_ip"] = t.Local.String()
	}
	if t.Mark != 0 {
		options["egress_pkt_mark"] = strconv.FormatUint(uint64(t.Mark), 10)
	}
	return portSpec{
		name: TunnelName(t.Peer), kind: KindTunnel, typ: "vxlan", options: options,
		externalIDs: map[string]string{idKind: KindTunnel, idPeer: t.Peer, idRemote: t.Remote.String()},
	}
}

// SetTunnels makes the tunnels of the bridge equal to the given ones in one transaction.
// It returns the OpenFlow port of each peer whose tunnel the switch has opened. A tunnel
// that fails does not stop the others; the error joins all failures. The map is nil if
// the database goes away, or ctx ends, before the state of every tunnel is known. The
// caller can then keep the previous map.
func (s *Switch) SetTunnels(ctx context.Context, tunnels []Tunnel) (map[string]int, error) {
	unlock, err := s.lockName(ctx, "/tunnels") // no interface can have this name
	if err != nil {
		return nil, fmt.Errorf("set tunnels: %w", err)
	}
	defer unlock()
	want, errs := acceptable(tunnels)
	have, err := s.selectPorts(ctx)
	if err != nil {
		return nil, fmt.Errorf("set tunnels: %w", err)
	}
	refused, err := s.writeTunnels(ctx, want, have)
	if err != nil {
		return nil, fmt.Errorf("set tunnels: %w", err)
	}
	errs = append(errs, refused...)
	ofports, failed := s.awaitTunnels(ctx, want)
	if len(failed) > 0 && ofports != nil {
		// The switch rejects a tunnel to the address of another tunnel, even of one that
		// the same transaction removed. It tries again only when it is reconfigured.
		if err := s.awaitBridge(ctx); err == nil {
			ofports, failed = s.awaitTunnels(ctx, want)
		}
	}
	return ofports, errors.Join(append(errs, failed...)...)
}

// acceptable returns the valid tunnels by port name. If two have the same address, it
// keeps the one whose peer sorts first, because the switch accepts only one.
func acceptable(tunnels []Tunnel) (map[string]Tunnel, []error) {
	var errs []error
	want := map[string]Tunnel{}
	owner := map[netip.Addr]string{}
	sorted := slices.SortedFunc(slices.Values(tunnels), func(a, b Tunnel) int { return strings.Compare(a.Peer, b.Peer) })
	for _, t := range sorted {
		t.Remote, t.Local = t.Remote.Unmap(), t.Local.Unmap()
		name := TunnelName(t.Peer)
		if err := t.check(); err != nil {
			errs = append(errs, fmt.Errorf("tunnel to peer %q: %w", t.Peer, err))
			continue
		}
		if other, taken := owner[t.Remote]; taken {
			errs = append(errs, fmt.Errorf("tunnel to peer %q: peer %q has the VTEP %s too", t.Peer, other, t.Remote))
			continue
		}
		if other, taken := want[name]; taken {
			errs = append(errs, fmt.Errorf("tunnel to peer %q: its port %s is that of peer %q", t.Peer, name, other.Peer))
			continue
		}
		owner[t.Remote], want[name] = t.Peer, t
	}
	return want, errs
}

// writeTunnels writes the differences. It removes tunnels that it cannot write from want
// and returns an error for each.
func (s *Switch) writeTunnels(ctx context.Context, want map[string]Tunnel, have []Port) ([]error, error) {
	sess, err := s.connected(ctx)
	if err != nil {
		return nil, err
	}
	var ops []ovsdb.Operation
	var errs []error
	for _, p := range have {
		if _, keep := want[p.Name]; p.Kind != KindTunnel || keep {
			continue
		}
		if port, _ := cachedPort(sess, p.Name); port != nil {
			s.forget(p.Name)
			ops = append(ops, s.detachOp(port.UUID))
		}
	}
	for name, t := range want {
		spec := t.spec()
		port, iface := cachedPort(sess, name)
		if port != nil && (port.ExternalIDs[idKind] != KindTunnel || !s.onBridge(sess, port.UUID)) {
			errs = append(errs, fmt.Errorf("tunnel to peer %q: port %q: %w", t.Peer, name, ErrForeign))
			delete(want, name)
			continue
		}
		if port != nil && iface != nil && iface.Type == spec.typ {
			diff := spec.diffOps(port, iface)
			if len(diff) == 0 {
				continue
			}
			if deref(iface.OFPort) > 0 {
				s.remember(spec, false)
				ops = append(ops, diff...)
				continue
			} // otherwise insert a new row, which lacks the old one's error
		}
		if port != nil {
			ops = append(ops, s.detachOp(port.UUID))
		}
		request, release := s.reserveOFPort(sess, name)
		defer release()
		s.remember(spec, port != nil)
		ops = append(ops, s.insertOps(spec, request, len(ops))...)
	}
	if len(ops) == 0 {
		return errs, nil
	}
	_, err = s.transact(ctx, ops...)
	return errs, err
}

// awaitTunnels waits for all tunnels at once, so that several that the switch never opens
// cost the timeout only once. It returns a nil map if the state of some tunnel is
// unknown.
func (s *Switch) awaitTunnels(ctx context.Context, want map[string]Tunnel) (map[string]int, []error) {
	var (
		mu      sync.Mutex
		wg      sync.WaitGroup
		ofports = make(map[string]int, len(want))
		errs    []error
	)
	for name, t := range want {
		wg.Go(func() {
			ofport, err := s.awaitOFPort(ctx, name)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("tunnel to peer %q: %w", t.Peer, err))
				return
			}
			ofports[t.Peer] = ofport
		})
	}
	wg.Wait()
	if len(errs) > 0 && ctx.Err() != nil || errors.Is(errors.Join(errs...), errNoSession) {
		return nil, errs
	}
	return ofports, errs
}
