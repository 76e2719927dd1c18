package agent

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/socketplane/socketplane/agent/pathmtu"
	"github.com/socketplane/socketplane/ovs"
)

// toldPaths are paths as they are told, and whom they were told of.
type toldPaths struct {
	peers []pathmtu.Peer
	paths map[string]pathmtu.Path
	says  []string
}

func (p *toldPaths) Set(peers []pathmtu.Peer)          { p.peers = peers }
func (p *toldPaths) Probe() ovs.Probe                  { return ovs.Probe{MAC: "02:aa:aa:aa:aa:aa", MTU: 1500} }
func (p *toldPaths) Run(context.Context, func()) error { return nil }
func (p *toldPaths) Known() (map[string]pathmtu.Path, []string) {
	return p.paths, p.says
}

// Each peer with a tunnel is measured, the switch takes part, and status tells.
func TestPathsAreTold(t *testing.T) {
	h := newTestHost(t)
	p := &toldPaths{paths: map[string]pathmtu.Path{peerID: {MTU: 1400, Limited: true}}, says: []string{"the path is narrow"}}
	h.Paths = p
	h.converge()
	want := []pathmtu.Peer{{ID: peerID, Name: "h2", VTEP: netip.MustParseAddr("192.0.2.2"), OFPort: h.tunnelPorts()[peerID]}}
	if diff := cmp.Diff(want, p.peers, cmp.Comparer(sameAddr)); diff != "" || want[0].OFPort == 0 {
		t.Errorf("peers (-want +got):\n%s", diff)
	}
	if got := h.forwardingState().Probe; got != p.Probe() {
		t.Errorf("the switch is told %+v", got)
	}
	st, err := h.Status(t.Context())
	if err != nil || len(st.Peers) != 1 || st.Peers[0].PathMTU != 1400 || !strings.Contains(strings.Join(st.Problems, ""), "the path is narrow") {
		t.Errorf("status %+v, %v", st, err)
	}
}
