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
	// seekEvery is how often a host alone looks at its token and interface.
	seekEvery = 2 * time.Second
	// gather is how long a search listens before anybody is asked: a host that has
	// just spoken answers a second and 120 ms later. Two clusters with one token
	// are then seen.
	gather = 1300 * time.Millisecond
	// announceAgain is the pause after the interface failed.
	announceAgain = 10 * time.Second
	// askedFor is how long a join without addresses listens.
	askedFor = 2500 * time.Millisecond
)

// Discover lets others find this host's cluster by mDNS while it is in one. A host
// that is alone, has a token and did not leave a cluster by its own will looks for
// the cluster of that token and joins it.
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

// announce says which cluster this host is in until ctx ends.
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

// search is a token's search on an interface.
type search struct {
	token  Token
	from   string // where the token is, for people
	at     Underlay
	found  *candidates
	began  time.Time
	failed error // of the last hosts that were asked
	stop   context.CancelFunc
	ended  chan struct{} // nobody listens any more
	err    error         // why; once ended is closed
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

// seek looks for the cluster until ctx ends, which it does when one is joined.
func (k *Keeper) seek(ctx context.Context) {
	tick := time.NewTicker(seekEvery)
	defer tick.Stop()
	var s *search
	told := &search{} // of which the log speaks
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

// end stops a search, if there is one.
func (s *search) end() {
	if s != nil {
		s.stop()
	}
}

// deaf says that nobody listens any more.
func (s *search) deaf() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// gather waits until all that are there have been heard.
func (s *search) gather(ctx context.Context) { pause(ctx, gather-time.Since(s.began)) }

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// follow gives the search that the token and the interface of now want; nil:
// none.
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

// moveAlone looks where a host that is in no cluster is now: its tunnels follow
// by themselves.
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

// ask asks the hosts that may be asked now, and joins what they are in.
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

// state says how the search goes: of which kind that is, and in a sentence.
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

// addresses names some of many.
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

// tell keeps a sentence for Problems, and logs it when its kind is news: who is on
// the segment cannot fill the log.
func (k *Keeper) tell(kind, sentence string) {
	k.mu.Lock()
	news := kind != k.soughtKind
	k.soughtKind, k.sought = kind, sentence
	k.mu.Unlock()
	if news && sentence != "" {
		k.Logger.Warn("this host is in no cluster yet", "err", sentence)
	}
}

// Problems are what Status tells of this host's place.
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

// find gives the hosts that announce a cluster with a token, for a join that was
// told no address.
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
	case <-s.ended: // when ctx does, or it could not begin
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
