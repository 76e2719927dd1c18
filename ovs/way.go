package ovs

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"time"
)

// appctlTimeout limits one call of ovs-appctl, which takes about 10 ms.
const appctlTimeout = 5 * time.Second

// Way is the route of the userspace datapath to the remote end of a tunnel.
type Way struct {
	Peer   netip.Addr // tunnel address of the peer
	Hop    netip.Addr // next hop: the peer itself or a router
	MAC    string     // of the next hop
	Bridge string     // bridge whose internal port has this host's tunnel address
}

// PinWay adds the route to a peer to the userspace datapath. Without it, the switch
// forgets all routes whenever any interface of the host appears or disappears, and drops
// tunnel packets until it has read them again (lib/ovs-router.c keeps only manually added
// routes). The switch also drops the packet that makes it resolve a MAC address. It keeps
// the pinned MAC address for 15 minutes after the last use.
//
// PinWay cannot be undone. When a route is deleted (ovs/route/del), the switch also
// forgets that packets of tunnels arrive on the route's bridge. It then drops those of
// all peers until a route is added again (lib/ovs-router.c, rt_entry_delete). A route to
// an address without a tunnel is unused.
func (s *Switch) PinWay(ctx context.Context, w Way) error {
	if parseMAC(w.MAC) == "" {
		return fmt.Errorf("way to %s: MAC %q is none", w.Peer, w.MAC)
	}
	route := []string{"ovs/route/add", hostRoute(w.Peer), w.Bridge}
	if w.Hop != w.Peer {
		route = append(route, w.Hop.String())
	}
	err := errors.Join(
		s.appctl(ctx, "tnl/neigh/set", w.Bridge, w.Hop.String(), w.MAC),
		s.appctl(ctx, route...),
	)
	if err != nil {
		return fmt.Errorf("way to %s by %q: %w", w.Peer, w.Bridge, err)
	}
	return nil
}

func hostRoute(a netip.Addr) string { return netip.PrefixFrom(a, a.BitLen()).String() }

// appctl runs one command of ovs-vswitchd. It fails unless the answer is OK.
func (s *Switch) appctl(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, appctlTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ovs-appctl", args...)
	cmd.Env = append(cmd.Environ(), "OVS_RUNDIR="+s.cfg.RunDir)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err == nil && strings.TrimSpace(string(out)) == "OK" {
		return nil
	}
	return fmt.Errorf("ovs-appctl %s: %w: %.200s", args[0], errors.Join(err, errNotOK), strings.TrimSpace(string(out)))
}

// errNotOK means that the answer is not OK.
var errNotOK = errors.New("refused")
