package agent

import (
	"net/netip"
	"time"
)

// missTime is how long an endpoint that has vanished from the list of a living host
// keeps getting its packets, unless another host claims its address. A host whose list
// somebody else emptied or deleted puts it right within a second, and no packet is lost.
// An endpoint that is really gone misses none.
const missTime = 2 * time.Second

// missedKey is an endpoint that has vanished.
type missedKey struct {
	network, host string
	ip            netip.Addr
}

type missed struct {
	endpoint endpoint
	until    time.Time
}

// miss notes which endpoints of living hosts are in before and not in force any more.
// The caller holds v.mu.
func (v *view) miss(before map[string]map[string]list) {
	now := v.now()
	for key, m := range v.missed {
		if !m.until.After(now) {
			delete(v.missed, key)
		}
	}
	alive := map[string]bool{}
	for _, h := range v.hosts {
		alive[h.ID] = h.Alive && !v.gone[h.ID]
	}
	for networkID, hosts := range before {
		for hostID, was := range hosts {
			is, there := v.endpoints[networkID][hostID]
			if there && is.version == was.version || !alive[hostID] {
				continue
			}
			attached := map[netip.Addr]bool{}
			for _, ep := range is.endpoints {
				if ep.Attached {
					attached[ep.IP] = true
				}
			}
			for _, ep := range was.endpoints {
				if ep.Attached && !attached[ep.IP] {
					v.missed[missedKey{networkID, hostID, ep.IP}] = missed{endpoint: ep, until: now.Add(missTime)}
				}
			}
		}
	}
}

// missedOn gives the endpoints of a network that have vanished a moment ago, by host.
func (v *view) missedOn(networkID string) map[string][]endpoint {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := v.now()
	var all map[string][]endpoint
	for key, m := range v.missed {
		if key.network != networkID || !m.until.After(now) {
			continue
		}
		if all == nil {
			all = map[string][]endpoint{}
		}
		all[key.host] = append(all[key.host], m.endpoint)
	}
	return all
}

// missing says how long until no vanished endpoint counts any more; 0: none does.
func (v *view) missing() time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	var longest time.Duration
	for _, m := range v.missed {
		longest = max(longest, m.until.Sub(v.now()))
	}
	return longest
}
