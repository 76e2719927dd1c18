package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/socketplane/socketplane/agent/api"
)

// chainDelay is how long after an attach the later plugins of a CNI chain have finished.
const chainDelay = 2 * time.Second

// lookAtMACs adds a note for Status about every endpoint whose interface has a MAC that
// the network does not expect. A later plugin of a CNI chain, or the container itself,
// has changed it, and the switch drops all its packets. The agent does not adopt the new
// MAC: otherwise a container could change its address for the whole cluster at any time.
func (a *Agent) lookAtMACs() {
	var keep []string
	for _, l := range a.table.all() {
		if a.lookAtMAC(l) {
			keep = append(keep, noteMAC+l.ID)
		}
	}
	a.clearNotes(noteMAC, keep...)
}

// lookAtMAC reports whether the interface of an endpoint has an unexpected MAC.
func (a *Agent) lookAtMAC(l local) bool {
	if !l.Attached || l.NetNS == "" {
		return false
	}
	peer, err := a.Links.Peer(l.Port, l.NetNS)
	if err != nil || peer.MAC == l.MAC { // other code handles an interface that cannot be found
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

// lookAfterChain checks an endpoint's MAC after the later plugins of the CNI chain have
// finished. Without it, only the slow timer of converge would find a change.
func (a *Agent) lookAfterChain(id string) {
	a.errands.run(chainDelay+undoTimeout, func(ctx context.Context) {
		a.errands.pause(ctx, chainDelay)
		if l, ok := a.table.get(id); ok {
			a.lookAtMAC(l)
		}
	})
}
