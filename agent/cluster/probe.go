package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"
)

// speakTimeout bounds one attempt to speak to a host.
const speakTimeout = 5 * time.Second

// probeDatacenter is that of one who only asks.
const probeDatacenter = "socketplane-probe"

// ErrRefused says that a host is in a cluster, and that our token is not its.
var ErrRefused = errors.New("it does not let this host in: the token is not that of its cluster")

// ErrSilent says that no cluster answers at an address.
var ErrSilent = errors.New("no cluster answers there")

// Found is a cluster that has the same token.
type Found struct {
	Cluster string          // UUID
	Hosts   []netip.Addr    // of its members
	Nodes   map[string]Node // by the ids of their hosts
}

// Node is a member that has not left. Whether it lives the answer does not tell.
type Node struct {
	Name string
	Addr netip.Addr
}

// probe asks the host at an address which cluster it is in. It speaks Consul's
// gossip (serf) under the token's key, so an answer proves that the host has the
// token, and a host that has it not learns nothing. We ask as a node of no
// cluster, whom the other refuses after it has answered: nothing of us stays.
func probe(ctx context.Context, from, to netip.Addr, port int, token Token) (Found, error) {
	key, err := token.gossipKey()
	if err != nil {
		return Found{}, err
	}
	ears := &listener{}
	quiet := log.New(io.Discard, "", 0)
	conf := serf.DefaultConfig()
	conf.NodeName = "probe-" + uuid.NewString()
	conf.Tags = map[string]string{"role": "node", "dc": probeDatacenter}
	conf.Merge = ears
	conf.EnableNameConflictResolution = false
	conf.DisableCoordinates = true
	conf.Logger = quiet
	conf.LogOutput = nil
	conf.MemberlistConfig = memberlist.DefaultLANConfig()
	conf.MemberlistConfig.BindAddr, conf.MemberlistConfig.BindPort = from.String(), 0
	conf.MemberlistConfig.AdvertisePort = 0
	conf.MemberlistConfig.SecretKey = key
	conf.MemberlistConfig.TCPTimeout = speakTimeout
	conf.MemberlistConfig.Logger = quiet
	conf.MemberlistConfig.LogOutput = nil
	s, err := serf.Create(conf)
	if err != nil {
		return Found{}, fmt.Errorf("listen on %s to ask %s: %w", from, to, err)
	}
	defer s.Shutdown() //nolint:errcheck // nothing of it is kept
	joined := make(chan error, 1)
	go func() {
		_, err := s.Join([]string{net.JoinHostPort(to.String(), strconv.Itoa(port))}, true)
		joined <- err
	}()
	select {
	case <-ctx.Done():
		return Found{}, fmt.Errorf("ask %s: %w", to, ctx.Err())
	case err = <-joined:
	}
	if ears.members != nil {
		return ears.found()
	}
	switch {
	case err == nil: // cannot be: listener refuses all
		return Found{}, fmt.Errorf("%s: %w", to, ErrSilent)
	case errors.Is(err, syscall.ECONNREFUSED), strings.Contains(err.Error(), "refused"), isTimeout(err):
		return Found{}, fmt.Errorf("%s: %w", to, ErrSilent)
	}
	return Found{}, fmt.Errorf("%s: %w", to, ErrRefused)
}

func isTimeout(err error) bool {
	return strings.Contains(err.Error(), "timeout") || strings.Contains(err.Error(), "no route to host") || strings.Contains(err.Error(), "unreachable")
}

// listener hears who is in a cluster and joins none.
type listener struct{ members []*serf.Member }

var errOnlyAsking = errors.New("only asking")

func (l *listener) NotifyMerge(members []*serf.Member) error {
	for _, m := range members {
		if m.Tags["dc"] == probeDatacenter { // serf asks about ourselves, too
			return nil
		}
	}
	l.members = members
	return errOnlyAsking
}

// found reads the answer strictly: it comes from one who has the token, and may
// still be another program's.
func (l *listener) found() (Found, error) {
	f := Found{Nodes: map[string]Node{}}
	for _, m := range l.members {
		if m.Status == serf.StatusLeft {
			continue
		}
		id, ok := strings.CutPrefix(m.Tags["dc"], datacenterPrefix)
		if _, err := uuid.Parse(id); !ok || err != nil {
			return Found{}, errors.New("a Consul answers there that is not SocketPlane's")
		}
		if f.Cluster != "" && f.Cluster != id {
			return Found{}, errors.New("hosts of two clusters answer there")
		}
		f.Cluster = id
		a, ok := netip.AddrFromSlice(m.Addr)
		f.Nodes[m.Tags["id"]] = Node{Name: m.Name, Addr: a.Unmap()}
		if ok && len(f.Hosts) < maxPeers {
			f.Hosts = append(f.Hosts, a.Unmap())
		}
	}
	if f.Cluster == "" {
		return Found{}, ErrSilent
	}
	slices.SortFunc(f.Hosts, netip.Addr.Compare)
	return f, nil
}
