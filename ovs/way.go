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

// appctlTimeout bounds one call of ovs-appctl; it takes about 10 ms.
const appctlTimeout = 5 * time.Second

// Way is how the userspace datapath reaches a tunnel's far end.
type Way struct {
	Peer   netip.Addr // tunnel address
	Hop    netip.Addr // the peer itself, or the router on the way
	MAC    string     // of the hop
	Bridge string     // whose own port has this host's tunnel address
}

// PinWay tells the userspace datapath the way to a peer. Left to itself the
// switch forgets all routes whenever any interface of the host comes or goes,
// and drops tunnel packets until it has read them again (lib/ovs-router.c keeps
// only routes that were added by hand); and it drops the packet that makes it
// look for a MAC address. The MAC is kept for 15 minutes beyond its last use.
//
// There is no way back: with a route (ovs/route/del) the switch also forgets that
// the tunnels' packets come to the bridge it led to, and drops those of all peers
// until a route is added again (lib/ovs-router.c, rt_entry_delete). A route to an
// address that no tunnel has is used by nobody.
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

// appctl runs one command of ovs-vswitchd that answers OK.
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

// errNotOK is an answer that is not OK.
var errNotOK = errors.New("refused")
