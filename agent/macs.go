package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/socketplane/socketplane/agent/api"
)

// chainDelay is how long after an attach a plugin that follows ours in a CNI chain
// has had its turn.
const chainDelay = 2 * time.Second

// lookAtMACs has status name the endpoints whose interface has another MAC than the
// network knows: a plugin in a CNI chain, or the container itself, has changed it,
// and the switch drops all of its packets. It is not taken up: whoever can change its
// interface could change its address for the whole cluster at any time.
func (a *Agent) lookAtMACs() {
	var keep []string
	for _, l := range a.table.all() {
		if a.lookAtMAC(l) {
			keep = append(keep, noteMAC+l.ID)
		}
	}
	a.clearNotes(noteMAC, keep...)
}

// lookAtMAC says whether the interface of an endpoint has another MAC than it should.
func (a *Agent) lookAtMAC(l local) bool {
	if !l.Attached || l.NetNS == "" {
		return false
	}
	peer, err := a.Links.Peer(l.Port, l.NetNS)
	if err != nil || peer.MAC == l.MAC { // one that cannot be found is others' business
		return false
	}
	who := l.ContainerName
	if who == "" {
		who = l.container()
	}
	remedy := fmt.Sprintf("set it back in the container: ip link set %s address %s", peer.Name, l.MAC)
	if l.Source == api.SourceCNI {
		remedy = "take \"mac\" out of the CNI plugin after SocketPlane that sets it (such as tuning), ask SocketPlane for the address " +
			"with the capability \"mac\" or MAC= in CNI_ARGS, and attach the container again"
	}
	a.note(noteMAC+l.ID, fmt.Sprintf("interface %q of %q on network %q has the MAC %s, and the network expects %s: none of its packets passes; %s",
		peer.Name, who, l.Network, peer.MAC, l.MAC, remedy))
	return true
}

// lookAfterChain looks at an endpoint's MAC when the plugins that follow ours have
// had their turn. Else converge would find it, within its slow timer.
func (a *Agent) lookAfterChain(id string) {
	a.errands.run(chainDelay+undoTimeout, func(ctx context.Context) {
		a.errands.pause(ctx, chainDelay)
		if l, ok := a.table.get(id); ok {
			a.lookAtMAC(l)
		}
	})
}
