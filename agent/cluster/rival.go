package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/socketplane/socketplane/agent/api"
)

const (
	// rivalEvery separates the checks for a machine that may have this host's identity.
	rivalEvery = time.Second
	// dataBefore is the directory to which a server's data of an earlier identity moves.
	dataBefore = "consul-data.before"
)

// CheckIdentity checks before the start of this host's Consul that no other machine uses
// this host's identity. On a copied disk, Consul has the node ID of the original host
// and, on a server, its vote. It would never find a leader, so no host could detect the
// duplicate in the store. CheckIdentity therefore queries the gossip of other hosts,
// without joining it. It fails with ErrTwin as late as Member does, because the machine
// at the address that this host had a moment ago may be gone.
func (k *Keeper) CheckIdentity(ctx context.Context) error {
	before, err := lastConfig(k.consulDir())
	if err != nil {
		return err
	}
	if before.NodeID != "" && before.NodeID != k.HostID {
		return k.becomeNew(ctx, before)
	}
	place, at, _, _ := k.current()
	token, err := LoadToken(k.Dir)
	if err != nil || token.IsZero() || !place.Settled {
		return err // a host that has just joined has checked already; without a token Consul cannot start
	}
	if runningConsul(ConsulOptions{Dir: k.consulDir()}.configPath(), filepath.Join(k.consulDir(), "consul.pid")) != nil {
		return nil // this machine itself uses the identity
	}
	ask, patience := k.whomToAsk(place, at, before), 2*speakTimeout
	if before.Bind == at.Addr.String() { // the usual start: a host whose peers are down must not wait for them
		patience = probeTimeout
	}
	tick := time.NewTicker(rivalEvery)
	defer tick.Stop()
	var rival Node
	var seen time.Time // time of the last sighting
	for began := time.Now(); ; {
		asking, cancel := context.WithTimeout(ctx, patience)
		other, found := k.rival(asking, place.Cluster, at.Addr, ask, token)
		cancel()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case found:
			rival, seen = other, time.Now()
		case time.Since(seen) >= k.SessionTTL: // the rival may have been too busy to answer at once
			k.wait("")
			return nil
		}
		name := strings.TrimSuffix(rival.Name, "-"+k.HostID[:8])
		if k.Waiting() == "" {
			k.Logger.Warn("another machine is in the cluster under this host's identity; waiting whether it goes", "host", name, "address", rival.Addr)
		}
		k.wait(fmt.Sprintf("host %q at %s lives under this host's identity; it is known within %v whether this disk is a copy of that one's", name, rival.Addr, rivalTTLs*k.SessionTTL))
		if found && time.Since(began) >= rivalTTLs*k.SessionTTL {
			return errTwin(k.HostID, name, rival.Addr)
		}
		ask = []netip.Addr{rival.Addr}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// lastConfig returns the configuration of this host's last Consul. It returns the zero
// value if there is none or if it cannot be decoded; a start writes it anew.
func lastConfig(dir string) (consulConfig, error) {
	data, err := readSmall(ConsulOptions{Dir: dir}.configPath())
	if errors.Is(err, fs.ErrNotExist) {
		return consulConfig{}, nil
	}
	var c consulConfig
	if err == nil && json.Unmarshal(data, &c) != nil {
		c = consulConfig{}
	}
	return c, err
}

// whomToAsk returns hosts that may know another machine with this host's identity: some
// hosts of the cluster, and the previous address of this host.
func (k *Keeper) whomToAsk(place Place, at Underlay, before consulConfig) []netip.Addr {
	ask := slices.Clone(place.Peers)
	rand.Shuffle(len(ask), func(i, j int) { ask[i], ask[j] = ask[j], ask[i] })
	ask = ask[:min(len(ask), maxAtOnce-1)]
	if a, err := netip.ParseAddr(before.Bind); err == nil {
		ask = append(ask, a)
	}
	return slices.DeleteFunc(ask, func(a netip.Addr) bool { return a == at.Addr || !a.Is4() })
}

// rival returns the machine at another address that itself claims this host's identity.
// Reports by other hosts do not suffice, because they include dead hosts.
func (k *Keeper) rival(ctx context.Context, cluster string, from netip.Addr, ask []netip.Addr, token Token) (other Node, found bool) {
	answers, end := k.askAll(ctx, from, ask, token)
	defer end()
	for range ask {
		a := <-answers
		if a.err != nil || a.found.Cluster != cluster {
			continue
		}
		if other, found = a.found.Nodes[k.HostID]; !found {
			continue // a host that has just arrived does not know all others yet
		}
		if other.Addr == from || !other.Addr.IsValid() {
			return Node{}, false
		}
		if other.Addr != a.by {
			var err error
			if a.found, err = probe(ctx, from, other.Addr, k.Ports.Gossip, token); err != nil {
				return Node{}, false // no host answers there
			}
		}
		return other, a.found.at(other.Addr) == k.HostID
	}
	return Node{}, false
}

// at returns the ID of the host at addr. It returns "" if several hosts have had the
// address, because the current one is unknown.
func (f Found) at(addr netip.Addr) (id string) {
	for i, n := range f.Nodes {
		if n.Addr == addr {
			if id != "" {
				return ""
			}
			id = i
		}
	}
	return id
}

// becomeNew turns a host of a cluster whose identity has changed into a new host of that
// cluster. Its Consul data belongs to the old identity. A server's data may be the only
// copy, so becomeNew moves it aside.
func (k *Keeper) becomeNew(ctx context.Context, before consulConfig) error {
	if err := k.changes.enter(ctx); err != nil {
		return context.Cause(ctx)
	}
	defer k.changes.leave()
	place, at, _, _ := k.current()
	data, aside := filepath.Join(k.consulDir(), "data"), filepath.Join(k.Dir, dataBefore)
	if _, err := os.Stat(data); err == nil && place.Server {
		stopLeftover(k.consulDir())
		if err := errors.Join(os.RemoveAll(aside), os.Rename(data, aside)); err != nil {
			return fmt.Errorf("put aside what Consul knew: %w", err)
		}
	}
	next := Place{Is: api.PlaceJoined, Cluster: place.Cluster, Peers: k.whomToAsk(place, at, before), Iface: place.Iface}
	if err := k.change(next, ending{}, false); err != nil {
		return err
	}
	k.Logger.Warn("this host has a new identity; it joins its cluster as a new host", "was", before.NodeID, "is", k.HostID)
	// The removal comes last: after an earlier error, the next start detects the change
	// again.
	return removeData(k.consulDir())
}
