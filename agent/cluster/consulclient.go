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

// consulClient queries this host's Consul for data that the store does not provide, such
// as its members. It uses Consul's unix socket.
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
		// The client uses no proxy from the environment and no connection that outlives
		// a restart of Consul.
		http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: 15 * time.Second},
	}
}

// maxConsulAnswer limits a response, in bytes. A member takes 1 KiB.
const maxConsulAnswer = 4 << 20

// Statuses of a member in Consul's gossip (serf).
const (
	serfAlive   = 1
	serfLeaving = 2
	serfLeft    = 3
	serfFailed  = 4
)

// consulMember is a host in Consul's gossip.
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

// leader returns the address of the Raft leader, or "" if there is none.
func (c consulClient) leader(ctx context.Context) (string, error) {
	var leader string
	return leader, c.call(ctx, http.MethodGet, "/v1/status/leader", &leader)
}

// leave makes Consul announce that it leaves, and exit.
func (c consulClient) leave(ctx context.Context) error {
	return c.call(ctx, http.MethodPut, "/v1/agent/leave", nil)
}

// forget removes a failed member, as if it had left.
func (c consulClient) forget(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodPut, "/v1/agent/force-leave/"+url.PathEscape(name)+"?prune", nil)
}

// raftServer is a server of the quorum.
type raftServer struct {
	ID      string // host ID
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

// removeServer removes a server from the quorum and returns when that is done.
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

// errNoLeader reports that the servers have not elected a leader yet.
var errNoLeader = errors.New("the servers of Consul have no leader yet")

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
