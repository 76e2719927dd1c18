package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/socketplane/socketplane/agent/state"
)

// handOverTimeout limits how long a server waits until the cluster can continue without
// it: another host must restart its Consul, which then catches up.
const handOverTimeout = turnTimeout

// lacksWithout returns what the cluster lacks to continue without host, or "" if nothing.
// The remaining quorum must be alive, because a lost quorum cannot even remove a server.
func lacksWithout(host string, all []seat, quorum []raftServer) string {
	alive := map[string]bool{}
	var away []string
	stay := false
	for _, s := range all {
		gone := !s.known && (s.leaving || !s.alive) // treated as gone, because its vote may disappear at any moment
		alive[s.host] = s.alive && !gone
		if s.host == host || gone {
			continue
		}
		stay = true
		if !s.alive {
			away = append(away, s.node)
		}
	}
	voters, living := 0, 0
	for _, s := range quorum {
		if s.ID == host || !s.Voter {
			continue
		}
		voters++
		if alive[s.ID] {
			living++
		}
	}
	lacks := ""
	switch {
	case !stay: // no other host remains that needs a server
		return ""
	case voters == 0:
		lacks = "no other host is a server yet"
	case living <= voters/2:
		lacks = fmt.Sprintf("only %d of %d other servers are alive", living, voters)
	default:
		return ""
	}
	if len(away) > 0 {
		lacks += " (away: " + strings.Join(away[:min(len(away), 10)], ", ") + ")"
	}
	return lacks
}

// replaceServer waits until the cluster can continue without this host, if that is a
// server, and prevents further changes of the servers. The session that does so ends in
// Finish or in stay; it is nil if it is not needed. With force the host leaves in any
// case, and keeps its mark.
func (k *Keeper) replaceServer(ctx context.Context, place Place, store state.Store, force bool) (state.Session, error) {
	now, err := k.look(ctx, store)
	switch {
	case ctx.Err() != nil: // the request was canceled
		return nil, ctx.Err()
	case err != nil && !place.Server:
		return nil, nil //nolint:nilerr // a client takes nothing from the others
	case err != nil:
		return nil, err
	case !now.serves(k.HostID) || len(now.seats) == 1:
		return nil, nil
	}
	// After this the other hosts no longer count on this host, and promote another one
	// if necessary.
	if err := setLeaving(ctx, store, k.HostID, true); err != nil {
		return nil, err
	}
	waiting, cancel := context.WithTimeout(ctx, handOverTimeout)
	defer cancel()
	held, err := k.awaitSuccession(waiting, store)
	if err != nil && (!force || ctx.Err() != nil) {
		err = errors.Join(err, k.stay(ctx, store, nil))
	}
	return held, err
}

// awaitSuccession waits until the remaining servers suffice for the cluster, and holds
// seatsKey.
func (k *Keeper) awaitSuccession(ctx context.Context, store state.Store) (state.Session, error) {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	said := ""
	for {
		lacks := ""
		now, err := k.look(ctx, store)
		if err == nil {
			lacks = lacksWithout(k.HostID, now.seats, now.quorum)
		}
		if err == nil && lacks == "" {
			var held state.Session
			if held, lacks, err = k.holdSeats(ctx, store); held != nil {
				return held, nil
			}
		}
		if lacks != "" && lacks != said {
			said = lacks
			k.Logger.Info("this host must wait before it leaves", "why", lacks)
		}
		select {
		case <-ctx.Done():
			if said == "" {
				said = "its servers do not answer"
			}
			return nil, errors.Join(fmt.Errorf("without this host the cluster cannot go on: %s", said), err)
		case <-tick.C:
		}
	}
}

// holdSeats takes seatsKey, and checks that the cluster can still continue without this
// host. If so, it returns the session that holds the key; otherwise it returns what the
// cluster lacks.
func (k *Keeper) holdSeats(ctx context.Context, store state.Store) (_ state.Session, lacks string, err error) {
	// The session outlives the request; Finish ends it.
	session, err := store.OpenSession(context.WithoutCancel(ctx), "socketplane leave "+k.HostName, seatTTL)
	if err != nil {
		return nil, "", err
	}
	err = hold(ctx, store, session.ID())
	if errors.Is(err, state.ErrConflict) {
		lacks, err = "another host becomes a server, or leaves, just now", nil
	} else if err == nil {
		var now view
		if now, err = k.look(ctx, store); err == nil {
			now.listen(ctx, k.HostID)
			lacks = lacksWithout(k.HostID, now.seats, now.quorum)
		}
	}
	if err == nil && lacks == "" {
		return session, "", nil
	}
	endSession(ctx, session)
	return nil, lacks, err
}

// stay reverts replaceServer.
func (k *Keeper) stay(ctx context.Context, store state.Store, held state.Session) error {
	if held != nil {
		endSession(ctx, held)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	return setLeaving(ctx, store, k.HostID, false)
}

// endSession closes a session within 2 s.
func endSession(ctx context.Context, s state.Session) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	_ = s.Close(ctx) // after an error the session expires
}

// handOver removes this host from the quorum while the other servers continue. Consul's
// own leave waits 5 s for the removal and then exits anyway. The other of two servers
// would then have lost the quorum for good.
func (k *Keeper) handOver(ctx context.Context) error {
	servers, err := k.consul.quorum(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(servers, func(s raftServer) bool { return s.ID == k.HostID })
	if i < 0 || len(servers) == 1 {
		return nil
	}
	if servers[i].Leader {
		if err := k.consul.transferLeader(ctx); err != nil {
			// A leader can also remove itself. The others then elect a new one.
			k.Logger.Warn("the lead is not handed over", "err", err)
		}
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := k.consul.removeServer(ctx, k.HostID)
		if err == nil {
			return nil
		}
		// The removal may have succeeded although the response was lost.
		servers, quorumErr := k.consul.quorum(ctx)
		if quorumErr == nil && !slices.ContainsFunc(servers, func(s raftServer) bool { return s.ID == k.HostID }) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("leave the quorum: %w", err)
		case <-tick.C:
		}
	}
}
