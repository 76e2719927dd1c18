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

// freshFor bounds how long a reading of the view's own stands against the
// snapshots of a watch that seem to be older.
const freshFor = time.Minute

// view is the cluster as the watches last showed it, decoded. Each snapshot
// replaces its part whole. Beside the watches, single values come from readings
// that are newer than what the watch has shown; they last until it has caught
// up. Which is newer, the version of a key and the index of a snapshot tell:
// both stores count them alike.
type view struct {
	self string // this host's id
	now  func() time.Time

	mu        sync.Mutex
	hosts     []cluster.Host       // changed by putHosts only
	known     hostIndex            // of hosts
	vanished  map[string]time.Time // peers in hosts without a record, since when
	gone      map[string]bool      // hosts that are dead, see cluster.Detector
	networks  map[string]network.Record
	endpoints map[string]map[string]list // network -> host, without ours
	index     map[string]uint64          // of the last snapshot, by part
	missed    map[missedKey]missed       // endpoints that vanished a moment ago
	fresh     map[string]time.Time       // keys whose value is from a reading of our own
	stale     map[string][]error         // what could not be decoded, by part
	seen      map[string]bool            // parts that have been read at least once
}

// list is one host's endpoints on one network.
type list struct {
	version   uint64 // of its key
	endpoints []endpoint
}

// The parts of the view, each a prefix of the store.
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

// set takes a snapshot of one part. A value that cannot be decoded is reported
// and stops only what it describes: where an older reading of the same key is
// known, that one stays in force. gone are the subnets that no network has any
// more, news what the snapshot before had not: the log says it once.
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

// maxStale bounds how many values of a part that cannot be decoded are named one by
// one: a store can be filled with them.
const maxStale = 20

func few(errs []error) []error {
	if len(errs) <= maxStale {
		return errs
	}
	return append(slices.Clone(errs[:maxStale]), errMoreStale)
}

var errMoreStale = errors.New("more values of the store like the last cannot be decoded")

// newer says whether a value that we have read ourselves is newer than a
// snapshot. Once the watch has caught up it is forgotten where it came from.
func (v *view) newer(key string, version, index uint64) bool {
	since, ok := v.fresh[key]
	if ok && version > index && v.now().Sub(since) < freshFor {
		return true
	}
	delete(v.fresh, key)
	return false
}

// complete says whether every part has been read; before that the view says
// nothing of what should be.
func (v *view) complete() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.seen[partHosts] && v.seen[partNetworks] && v.seen[partEndpoints]
}

// problems lists what could not be decoded.
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
