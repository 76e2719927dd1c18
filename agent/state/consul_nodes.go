package state

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/hashicorp/consul/api"
)

// gossipCheck is the health check that Consul itself maintains for each node. It becomes
// critical when the node no longer answers the gossip of the other nodes.
const gossipCheck = "serfHealth"

// Node returns the node name of the Consul agent at the store's address. It returns "" if
// the agent does not run on this machine, because the agent's health then says nothing
// about this machine.
func (c *consulStore) Node(ctx context.Context) (string, error) {
	ctx, done := c.begin(ctx)
	defer done()
	var self map[string]map[string]any
	err := c.read(ctx, func(ctx context.Context) (err error) {
		self, err = c.agentSelf(ctx)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("ask consul for its node: %w", err)
	}
	name, _ := self["Config"]["NodeName"].(string)
	addr, _ := self["Member"]["Addr"].(string)
	here, err := ownAddress(addr)
	if err != nil {
		return "", fmt.Errorf("ask consul for its node: %w", err)
	}
	if !here {
		return "", nil
	}
	return name, nil
}

// agentSelf replaces api.Agent.Self, which takes no context.
func (c *consulStore) agentSelf(ctx context.Context) (map[string]map[string]any, error) {
	var self map[string]map[string]any
	_, err := c.client.Raw().Query("/v1/agent/self", &self, (&api.QueryOptions{}).WithContext(ctx))
	return self, err
}

// ownAddress reports whether an interface of this machine has the address.
func ownAddress(text string) (bool, error) {
	want, err := netip.ParseAddr(text)
	if err != nil {
		return false, nil //nolint:nilerr // a name, or nothing: it cannot be told
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false, fmt.Errorf("read the addresses of this machine: %w", err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap() == want.Unmap() {
			return true, nil
		}
	}
	return false, nil
}

// LiveNodes returns the nodes that answer gossip. It fails if the token may not read
// every node: an unreadable node would look like a failed one.
func (c *consulStore) LiveNodes(ctx context.Context) ([]string, error) {
	ctx, done := c.begin(ctx)
	defer done()
	var (
		checks api.HealthChecks
		meta   *api.QueryMeta
	)
	err := c.read(ctx, func(ctx context.Context) (err error) {
		q := consistent()
		q.Filter = fmt.Sprintf("CheckID == %q", gossipCheck)
		checks, meta, err = c.client.Health().State(api.HealthPassing, q.WithContext(ctx))
		return err
	})
	switch {
	case err != nil:
	case meta.ResultsFilteredByACLs || len(checks) == 0: // the node that answers is alive, so an empty list is incomplete
		err = fmt.Errorf("%w: consul at %s: the health of its nodes may not be read; give the token node_prefix read", ErrInvalid, c.address)
	}
	if err != nil {
		return nil, fmt.Errorf("ask consul for the health of its nodes: %w", err)
	}
	live := make([]string, 0, len(checks))
	for _, check := range checks {
		live = append(live, check.Node)
	}
	return live, nil
}
