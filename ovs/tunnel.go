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
	Local  netip.Addr // this host's VTEP; zero: the kernel's choice
	Mark   uint32     // fwmark of the packets that the kernel's datapath sends; 0: none
}

// tunnelPrefix begins the name of every tunnel's port.
const tunnelPrefix = "vxlan-"

// TunnelName is the port of a peer's tunnel. It is made from a hash: nothing
// that came from outside gets into an interface name, and 15 bytes are all it
// can hold (IFNAMSIZ).
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

// spec fixes the remote address: with remote_ip=flow a frame from any address
// would enter. The key comes from the flows, one tunnel carries all networks.
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

// SetTunnels makes the bridge's tunnels those given and no others, in one
// transaction, and returns the OpenFlow port of each peer that the switch has
// opened. A tunnel that fails does not keep the others from being made; the
// error joins all failures. When the database goes away, or ctx ends, before it
// has told of every tunnel, the map is nil: what was known before is no worse.
func (s *Switch) SetTunnels(ctx context.Context, tunnels []Tunnel) (map[string]int, error) {
	unlock, err := s.lockName(ctx, "/tunnels") // no interface can have that name
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
		// The switch refuses a tunnel to an address that another tunnel has,
		// also one that went in the same transaction, and tries again only
		// when it is configured again.
		if err := s.awaitBridge(ctx); err == nil {
			ofports, failed = s.awaitTunnels(ctx, want)
		}
	}
	return ofports, errors.Join(append(errs, failed...)...)
}

// acceptable is the tunnels that can be made, by port name. Of two to one
// address the one whose peer sorts first stands, for the switch takes only one.
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

// writeTunnels applies the difference. Tunnels that cannot be written are taken
// out of want; the errors say why.
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
			} // else a new row, which does not carry the old one's error
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

// awaitTunnels waits for all at once, so that one that the switch never opens
// costs its deadline once. It gives no map where it is not known of each tunnel
// whether the switch has opened it.
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
