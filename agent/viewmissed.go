package agent

import (
	"net/netip"
	"time"
)

// missTime is how long an endpoint that disappeared from the list of a live host still
// receives its packets, unless another host claims its address. If somebody else emptied
// or deleted the list, its host restores it within a second, and no packet is lost. An
// endpoint that is really gone does not need them.
const missTime = 2 * time.Second

// missedKey identifies an endpoint that has disappeared.
type missedKey struct {
	network, host string
	ip            netip.Addr
}

type missed struct {
	endpoint endpoint
	until    time.Time
}

// miss records the endpoints of live hosts that are attached in before but not in
// v.endpoints. The caller holds v.mu.
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

// missedOn returns the endpoints of a network that disappeared less than missTime ago, by
// host.
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

// missing returns the time until the last vanished endpoint expires, or 0 if there is
// none.
func (v *view) missing() time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	var longest time.Duration
	for _, m := range v.missed {
		longest = max(longest, m.until.Sub(v.now()))
	}
	return longest
}
