package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/cluster/mdns"
)

const (
	// seekEvery is how often a standalone host checks its token and interface.
	seekEvery = 2 * time.Second
	// gather is how long a search listens before it probes any host. A host that has just
	// announced itself may answer up to 1 s and 120 ms later. Within gather, the search
	// also sees whether two clusters use one token.
	gather = 1300 * time.Millisecond
	// announceAgain is the pause after an error on the interface.
	announceAgain = 10 * time.Second
	// askedFor is how long a join without addresses listens.
	askedFor = 2500 * time.Millisecond
)

// Discover announces this host's cluster by mDNS while the host is in one. A host that is
// alone, has a token and did not leave a cluster deliberately searches for the cluster
// with that token and joins it.
func (k *Keeper) Discover(ctx context.Context) error {
	place, _, _, _ := k.current()
	switch {
	case k.Configured:
	case place.InCluster():
		k.announce(ctx)
	default:
		k.seek(ctx)
	}
	return nil
}

// announce announces this host's cluster until ctx ends.
func (k *Keeper) announce(ctx context.Context) {
	_, at, _, _ := k.current()
	said := ""
	for ctx.Err() == nil {
		token, err := LoadToken(k.Dir)
		if err == nil {
			var a mdns.Announcement
			if a, err = announcement(token, nodeName(k.HostName, k.HostID), at.Addr, k.Ports.Gossip); err == nil {
				err = mdns.Announce(ctx, at.Iface, a)
			}
		}
		if err != nil && err.Error() != said {
			said = err.Error()
			k.Logger.Warn("hosts cannot find this one's cluster by themselves; they can join it by address", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(announceAgain):
		}
	}
}

// search is the search for the cluster of a token on one interface.
type search struct {
	token  Token
	from   string // source of the token, for messages
	at     Underlay
	found  *candidates
	began  time.Time
	failed error // error of the last probes
	stop   context.CancelFunc
	ended  chan struct{} // closed when the search no longer listens
	err    error         // reason for the end; valid once ended is closed
}

func (k *Keeper) newSearch(ctx context.Context, token Token, from string, at Underlay) (*search, error) {
	found, err := newCandidates(token, k.Ports.Gossip)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &search{token: token, from: from, at: at, found: found, began: time.Now(), stop: cancel, ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		s.err = mdns.Browse(ctx, at.Iface, at.Addr, found.hear)
	}()
	return s, nil
}

// seek searches for the cluster until ctx ends. ctx ends when this host joins one.
func (k *Keeper) seek(ctx context.Context) {
	tick := time.NewTicker(seekEvery)
	defer tick.Stop()
	var s *search
	told := &search{} // the search that was logged last
	defer func() {
		s.end()
		k.tell("", "")
	}()
	for ctx.Err() == nil {
		var err error
		if s, err = k.follow(ctx, s); err != nil {
			k.tell("error: "+err.Error(), err.Error())
		}
		if s == nil {
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
			continue
		}
		if s.token != told.token || s.at != told.at {
			told = s
			k.Logger.Info("this host looks for its cluster by mDNS", "iface", s.at.Iface, "address", s.at.Addr, "by", s.from)
		}
		s.gather(ctx)
		if !s.deaf() {
			k.ask(ctx, s)
			k.tell(s.state())
		}
		select {
		case <-ctx.Done():
		case <-s.found.news:
		case <-tick.C:
		case <-s.ended:
			if ctx.Err() != nil {
				return
			}
			k.tell("deaf", fmt.Sprintf("this host cannot look for its cluster (%v); join it by address: socketplane cluster join ADDR", s.err))
			s.end()
			s = nil
			pause(ctx, seekEvery)
		}
	}
}

// end stops a search. s may be nil.
func (s *search) end() {
	if s != nil {
		s.stop()
	}
}

// deaf reports whether the search no longer listens.
func (s *search) deaf() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// gather waits until all present hosts had time to answer.
func (s *search) gather(ctx context.Context) { pause(ctx, gather-time.Since(s.began)) }

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// follow returns the search for the current token and interface, or nil if none is
// needed. It ends the old search s if it differs.
func (k *Keeper) follow(ctx context.Context, s *search) (*search, error) {
	place, _, _, _ := k.current()
	token, from, err := k.wantedToken()
	if place.InCluster() || place.Left || err != nil || token.IsZero() {
		s.end()
		if place.Left || err == nil {
			k.tell("", "")
			return nil, nil
		}
		return nil, err
	}
	at, err := k.moveAlone()
	if err != nil {
		s.end()
		return nil, err
	}
	if s != nil && s.token == token && s.at == at {
		return s, nil
	}
	s.end()
	return k.newSearch(ctx, token, from, at)
}

// moveAlone updates the underlay of a host that is in no cluster, whose tunnels follow
// without further action.
func (k *Keeper) moveAlone() (Underlay, error) {
	at, err := k.underlay()
	if err != nil {
		return Underlay{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.place.InCluster() {
		k.at = at
	}
	return at, nil
}

// ask probes the hosts that are due and joins their cluster.
func (k *Keeper) ask(ctx context.Context, s *search) {
	due := s.found.due()
	if len(due) == 0 {
		return
	}
	if err := k.changes.enter(ctx); err != nil {
		return
	}
	defer k.changes.leave()
	place, _, _, _ := k.current()
	had, err := LoadToken(k.Dir)
	if place.InCluster() || place.Left {
		return
	}
	if s.failed = err; err == nil {
		_, s.failed = k.join(ctx, due, s.token, had, k.probeThese(s.found))
	}
	if s.failed != nil {
		s.found.inVain(due)
	}
}

// state returns the state of the search: its kind, and a sentence for the user.
func (s *search) state() (kind, sentence string) {
	where := fmt.Sprintf("%s (%s)", s.at.Iface, s.at.Addr)
	strangers, ours := s.found.others()
	switch {
	case ours && s.failed != nil:
		return "failed " + string(api.CodeOf(s.failed)), "this host has found its cluster by mDNS and is not in it yet: " + s.failed.Error()
	case ours:
		return "", ""
	case len(strangers) > 0:
		return "strangers", fmt.Sprintf("the token in %s is not that of the cluster that is announced on %s by %s; compare it with what this says there: socketplane cluster token", s.from, where, addresses(strangers))
	}
	return "nobody", fmt.Sprintf("no host announces a cluster with the token in %s on %s; begin it on one: socketplane cluster bootstrap, or join it by address: socketplane cluster join ADDR", s.from, where)
}

// addresses returns the first three addresses as text.
func addresses(all []netip.Addr) string {
	var names []string
	for _, a := range all[:min(len(all), 3)] {
		names = append(names, a.String())
	}
	if len(all) > len(names) {
		names = append(names, "...")
	}
	return strings.Join(names, ", ")
}

// tell stores a sentence for Problems. It logs the sentence only if its kind is new, so
// that hosts on the segment cannot flood the log.
func (k *Keeper) tell(kind, sentence string) {
	k.mu.Lock()
	news := kind != k.soughtKind
	k.soughtKind, k.sought = kind, sentence
	k.mu.Unlock()
	if news && sentence != "" {
		k.Logger.Warn("this host is in no cluster yet", "err", sentence)
	}
}

// Problems returns the problems of this host's place in the cluster, for Status.
func (k *Keeper) Problems() []string {
	var list []string
	k.mu.Lock()
	sought := k.sought
	k.mu.Unlock()
	for _, p := range []string{k.Insecure(), sought} {
		if p != "" {
			list = append(list, p)
		}
	}
	return list
}

// find searches for hosts that announce a cluster with the token, for a join without
// addresses.
func (k *Keeper) find(ctx context.Context, token Token) ([]netip.Addr, *candidates, error) {
	at, err := k.moveAlone()
	if err != nil {
		return nil, nil, &api.Error{Code: api.CodeUnavailable, Message: err.Error() + "; choose with: socketplane cluster bind IFACE", Cause: err}
	}
	ctx, cancel := context.WithTimeout(ctx, askedFor)
	defer cancel()
	s, err := k.newSearch(ctx, token, "", at)
	if err != nil {
		return nil, nil, err
	}
	select {
	case <-s.ended: // ctx ended, or the search could not start
	case <-s.found.news:
		s.gather(ctx)
		cancel()
		<-s.ended
	}
	if s.err != nil {
		return nil, nil, &api.Error{Code: api.CodeUnavailable, Message: s.err.Error() + "; give the address of a host in the cluster", Cause: s.err}
	}
	if due := s.found.due(); len(due) > 0 {
		return due, s.found, nil
	}
	beside := ""
	if strangers, _ := s.found.others(); len(strangers) > 0 {
		beside = fmt.Sprintf(", but %s that of another token", addresses(strangers))
	}
	return nil, nil, api.Errorf(api.CodeUnavailable, "no host announces a cluster with this token on %s (%s)%s; give the address of a host in the cluster, where its token is shown by: socketplane cluster token",
		at.Iface, at.Addr, beside)
}
