package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// consulClient asks this host's Consul what the store does not: who its members
// are. It does so by Consul's unix socket.
type consulClient struct {
	socket string
	http   *http.Client
}

func newConsulClient(socket string) consulClient {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return consulClient{
		socket: socket,
		// No proxy of the environment, and no connection that outlives a restart of Consul.
		http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: 15 * time.Second},
	}
}

// maxConsulAnswer bounds an answer, in bytes: 1 KiB a member.
const maxConsulAnswer = 4 << 20

// Statuses of a member in Consul's gossip (serf).
const (
	serfAlive   = 1
	serfLeaving = 2
	serfLeft    = 3
	serfFailed  = 4
)

// consulMember is a host as the gossip sees it.
type consulMember struct {
	Name   string
	Addr   string
	Status int
	Tags   map[string]string
}

func (m consulMember) hostID() string { return m.Tags["id"] }
func (m consulMember) server() bool   { return m.Tags["role"] == "consul" }
func (m consulMember) gone() bool     { return m.Status == serfLeft || m.Status == serfLeaving }

func (c consulClient) members(ctx context.Context) ([]consulMember, error) {
	var all []consulMember
	return all, c.call(ctx, http.MethodGet, "/v1/agent/members", &all)
}

// leader gives the address of the servers' leader; empty: there is none.
func (c consulClient) leader(ctx context.Context) (string, error) {
	var leader string
	return leader, c.call(ctx, http.MethodGet, "/v1/status/leader", &leader)
}

// leave makes Consul tell the others that it goes, and end.
func (c consulClient) leave(ctx context.Context) error {
	return c.call(ctx, http.MethodPut, "/v1/agent/leave", nil)
}

// forget takes a member out that has failed: it left, if it is asked.
func (c consulClient) forget(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodPut, "/v1/agent/force-leave/"+url.PathEscape(name)+"?prune", nil)
}

// raftServer is a server in the quorum.
type raftServer struct {
	ID      string // the host's
	Node    string
	Address string
	Leader  bool
	Voter   bool
}

func (c consulClient) quorum(ctx context.Context) ([]raftServer, error) {
	var answer struct{ Servers []raftServer }
	return answer.Servers, c.call(ctx, http.MethodGet, "/v1/operator/raft/configuration?stale", &answer)
}

// transferLeader makes another server the leader.
func (c consulClient) transferLeader(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/operator/raft/transfer-leader", nil)
}

// removeServer takes a server out of the quorum, and returns when it is.
func (c consulClient) removeServer(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, "/v1/operator/raft/peer?id="+url.QueryEscape(id), nil)
}

func (c consulClient) call(ctx context.Context, method, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://consul"+path, nil)
	if err != nil {
		return fmt.Errorf("ask Consul: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask Consul: %w", err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxConsulAnswer))
	switch {
	case err != nil:
		return fmt.Errorf("ask Consul: %w", err)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("ask Consul: it answers %s %s with %d: %.200s", method, path, resp.StatusCode, strings.TrimSpace(string(data)))
	case into == nil:
		return nil
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("answer of Consul to %s: %w", path, err)
	}
	return nil
}

// errNoLeader says that the servers have not agreed on one yet.
var errNoLeader = errors.New("the servers of Consul have no leader yet")

// awaitLeader waits until the servers have a leader.
func (c consulClient) awaitLeader(ctx context.Context) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		leader, err := c.leader(ctx)
		if err == nil && leader != "" {
			return nil
		}
		if err == nil {
			err = errNoLeader
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-tick.C:
		}
	}
}
