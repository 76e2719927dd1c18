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
	// rivalEvery paces the looks at a machine that may have our identity.
	rivalEvery = time.Second
	// dataBefore is where what a server of another identity knew is put aside.
	dataBefore = "consul-data.before"
)

// CheckIdentity makes sure, before this host's Consul says a word, that nobody
// else speaks under its name. A Consul on a copy of another host's disk has that
// one's node id, and, of a server, that one's vote: it would never find a leader,
// so nobody could read in the store that there are two. The gossip of the others
// tells, without a word of ours. It fails with ErrTwin as Member does, and as
// late: who lives at an address that this machine had a moment ago may be gone.
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
		return err // who joined just now has looked; without a token nothing can begin
	}
	if runningConsul(ConsulOptions{Dir: k.consulDir()}.configPath(), filepath.Join(k.consulDir(), "consul.pid")) != nil {
		return nil // it is this machine that has the name
	}
	ask, patience := k.whomToAsk(place, at, before), 2*speakTimeout
	if before.Bind == at.Addr.String() { // most starts: a host whose peers are off must not wait for them
		patience = probeTimeout
	}
	tick := time.NewTicker(rivalEvery)
	defer tick.Stop()
	var rival Node
	var seen time.Time // last
	for began := time.Now(); ; {
		asking, cancel := context.WithTimeout(ctx, patience)
		other, found := k.rival(asking, place.Cluster, at.Addr, ask, token)
		cancel()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case found:
			rival, seen = other, time.Now()
		case time.Since(seen) >= k.SessionTTL: // it may have been too busy to answer at once
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

// lastConfig reads the configuration of this host's last Consul; the zero one
// where there is none, or none that can be read: it is written anew.
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

// whomToAsk gives hosts that may know of another machine with our identity: some
// of the cluster, and who is at the address that was ours.
func (k *Keeper) whomToAsk(place Place, at Underlay, before consulConfig) []netip.Addr {
	ask := slices.Clone(place.Peers)
	rand.Shuffle(len(ask), func(i, j int) { ask[i], ask[j] = ask[j], ask[i] })
	ask = ask[:min(len(ask), maxAtOnce-1)]
	if a, err := netip.ParseAddr(before.Bind); err == nil {
		ask = append(ask, a)
	}
	return slices.DeleteFunc(ask, func(a netip.Addr) bool { return a == at.Addr || !a.Is4() })
}

// rival finds the machine at another address that says itself that it has our
// identity. What others say of one is not enough: they tell of the dead, too.
func (k *Keeper) rival(ctx context.Context, cluster string, from netip.Addr, ask []netip.Addr, token Token) (other Node, found bool) {
	answers, end := k.askAll(ctx, from, ask, token)
	defer end()
	for range ask {
		a := <-answers
		if a.err != nil || a.found.Cluster != cluster {
			continue
		}
		if other, found = a.found.Nodes[k.HostID]; !found {
			continue // a host that has just come itself has not met everybody
		}
		if other.Addr == from || !other.Addr.IsValid() {
			return Node{}, false
		}
		if other.Addr != a.by {
			var err error
			if a.found, err = probe(ctx, from, other.Addr, k.Ports.Gossip, token); err != nil {
				return Node{}, false // nobody answers there
			}
		}
		return other, a.found.at(other.Addr) == k.HostID
	}
	return Node{}, false
}

// at gives the id of the host that has an address. Where several have had it, it is
// not known whose it is now.
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

// becomeNew makes a host of a cluster that has a new identity a new host of that
// cluster: what its Consul knew is another's. That may be the only copy, so what
// a server knew is put aside.
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
	// Last: if anything fails before that it is found again.
	return removeData(k.consulDir())
}
