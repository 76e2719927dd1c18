package agent

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
)

// freshFor bounds how long a value that the view read itself takes precedence over
// snapshots that seem to be older.
const freshFor = time.Minute

// view is the decoded state of the cluster as the watches last showed it. Each snapshot
// replaces its part as a whole. The view also holds single values that this host has read
// itself and that are newer than the snapshot. They last until the watch has caught up.
// The version of a key and the index of a snapshot tell which is newer, because both
// stores count them alike.
type view struct {
	self string // this host's id
	now  func() time.Time

	mu        sync.Mutex
	hosts     []cluster.Host       // only putHosts changes it
	known     hostIndex            // of hosts
	vanished  map[string]time.Time // when each peer in hosts lost its record
	gone      map[string]bool      // dead hosts; see cluster.Detector
	networks  map[string]network.Record
	endpoints map[string]map[string]list // network -> host, without this host
	index     map[string]uint64          // of the last snapshot, by part
	missed    map[missedKey]missed       // endpoints that disappeared a moment ago
	fresh     map[string]time.Time       // keys with a value that this host read itself
	stale     map[string][]error         // decoding errors, by part
	seen      map[string]bool            // parts that were read at least once
}

// list is one host's endpoints on one network.
type list struct {
	version   uint64 // of its key
	endpoints []endpoint
	over      excess     // what is left out of endpoints
	sharing   []endpoint // those that are allowed addresses; there are only a few
}

// newList returns the list of a host from its endpoints in the store.
func newList(version uint64, endpoints []endpoint) list {
	endpoints, over := bound(endpoints)
	l := list{version: version, endpoints: endpoints, over: over}
	for _, ep := range endpoints {
		if len(ep.Allowed) > 0 {
			l.sharing = append(l.sharing, ep)
		}
	}
	return l
}

// The parts of the view. Each is a key prefix in the store.
const (
	partHosts     = cluster.HostsPrefix
	partNetworks  = network.NetworksPrefix
	partEndpoints = network.EndpointsPrefix
)

func newView(self string) *view {
	return &view{
		self: self, now: time.Now, vanished: map[string]time.Time{}, gone: map[string]bool{},
		networks: map[string]network.Record{}, endpoints: map[string]map[string]list{},
		index: map[string]uint64{}, missed: map[missedKey]missed{}, fresh: map[string]time.Time{},
		stale: map[string][]error{}, seen: map[string]bool{},
	}
}

// set applies a snapshot of one part. A value that cannot be decoded affects only what it
// describes: if an older value of the key is known, that stays in force. gone lists the
// subnets that no network has any more. news lists the errors that the last snapshot did
// not have, so that the log has each once.
func (v *view) set(part string, snap state.Snapshot) (gone []netip.Prefix, news []error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var errs []error
	switch part {
	case partHosts:
		var hosts []cluster.Host
		hosts, errs = v.decodeHosts(snap.Entries)
		v.putHosts(hosts)
	case partNetworks:
		gone, errs = v.setNetworks(snap)
	case partEndpoints:
		before := v.endpoints
		v.endpoints, errs = v.decodeLists(snap)
		v.miss(before)
	}
	v.index[part] = snap.Index
	known := map[string]bool{}
	for _, err := range v.stale[part] {
		known[err.Error()] = true
	}
	v.seen[part], v.stale[part] = true, few(errs)
	for _, err := range v.stale[part] {
		if !known[err.Error()] {
			news = append(news, err)
		}
	}
	return gone, news
}

// maxStale bounds how many undecodable values of a part are listed individually, because
// an attacker can fill the store with them.
const maxStale = 20

func few(errs []error) []error {
	if len(errs) <= maxStale {
		return errs
	}
	return append(slices.Clone(errs[:maxStale]), errMoreStale)
}

var errMoreStale = errors.New("more values of the store like the last cannot be decoded")

// newer reports whether a value that this host read itself is newer than a snapshot. Once
// the watch has caught up, newer deletes the mark in fresh.
func (v *view) newer(key string, version, index uint64) bool {
	since, ok := v.fresh[key]
	if ok && version > index && v.now().Sub(since) < freshFor {
		return true
	}
	delete(v.fresh, key)
	return false
}

// complete reports whether every part was read at least once. Until then the view does
// not show the desired state.
func (v *view) complete() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.seen[partHosts] && v.seen[partNetworks] && v.seen[partEndpoints]
}

// problems lists the values that could not be decoded.
func (v *view) problems() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var list []string
	for _, part := range []string{partHosts, partNetworks, partEndpoints} {
		for _, err := range v.stale[part] {
			list = append(list, oneLine(err.Error())+"; it is left alone")
		}
	}
	return list
}
