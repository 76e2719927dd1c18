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

// speakTimeout limits one TCP exchange with a host.
const speakTimeout = 5 * time.Second

// probeDatacenter is the datacenter name of a probe.
const probeDatacenter = "socketplane-probe"

// ErrRefused reports that the host is in a cluster with another token.
var ErrRefused = errors.New("it does not let this host in: the token is not that of its cluster")

// ErrSilent reports that no cluster answers at an address.
var ErrSilent = errors.New("no cluster answers there")

// Found is a cluster that has the probe's token.
type Found struct {
	Cluster string          // UUID
	Hosts   []netip.Addr    // addresses of its members
	Nodes   map[string]Node // by host ID
}

// Node is a member that has not left. It may be dead: the answer does not show that.
type Node struct {
	Name string
	Addr netip.Addr
}

// probe asks the host at to for its cluster. It speaks Consul's gossip (serf) under the
// token's key, so an answer proves that the host has the token, and a host without it
// learns nothing. The probe claims to be in another datacenter. The host therefore
// rejects it after it has answered, and keeps no trace of it.
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
	case err == nil: // impossible, as listener rejects every merge
		return Found{}, fmt.Errorf("%s: %w", to, ErrSilent)
	case errors.Is(err, syscall.ECONNREFUSED), strings.Contains(err.Error(), "refused"), isTimeout(err):
		return Found{}, fmt.Errorf("%s: %w", to, ErrSilent)
	}
	return Found{}, fmt.Errorf("%s: %w", to, ErrRefused)
}

func isTimeout(err error) bool {
	return strings.Contains(err.Error(), "timeout") || strings.Contains(err.Error(), "no route to host") || strings.Contains(err.Error(), "unreachable")
}

// listener records the members of a cluster and rejects the merge.
type listener struct{ members []*serf.Member }

var errOnlyAsking = errors.New("only asking")

func (l *listener) NotifyMerge(members []*serf.Member) error {
	for _, m := range members {
		if m.Tags["dc"] == probeDatacenter { // serf also passes this node itself
			return nil
		}
	}
	l.members = members
	return errOnlyAsking
}

// found validates the answer. Its sender has the token but may still be another program.
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
