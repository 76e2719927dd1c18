package api

import (
	"context"
	"net/http"
)

var _ ClusterService = (*Client)(nil)

// Place implements ClusterService.
func (c *Client) Place(ctx context.Context) (Place, error) { return get[Place](ctx, c, "/v1/cluster") }

// Members implements ClusterService.
func (c *Client) Members(ctx context.Context) ([]Member, error) {
	return get[[]Member](ctx, c, "/v1/cluster/members")
}

// Token implements ClusterService.
func (c *Client) Token(ctx context.Context) (Token, error) {
	return get[Token](ctx, c, "/v1/cluster/token")
}

// Bootstrap implements ClusterService.
func (c *Client) Bootstrap(ctx context.Context, req BootstrapRequest) (Place, error) {
	return call[Place](ctx, c, http.MethodPost, "/v1/cluster/bootstrap", req)
}

// Join implements ClusterService.
func (c *Client) Join(ctx context.Context, req JoinRequest) (Place, error) {
	return call[Place](ctx, c, http.MethodPost, "/v1/cluster/join", req)
}

// Leave implements ClusterService.
func (c *Client) Leave(ctx context.Context, req LeaveRequest) (Place, error) {
	return call[Place](ctx, c, http.MethodPost, "/v1/cluster/leave", req)
}

// Bind implements ClusterService.
func (c *Client) Bind(ctx context.Context, req BindRequest) (Place, error) {
	return call[Place](ctx, c, http.MethodPost, "/v1/cluster/bind", req)
}
