package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
)

// ErrUnreachable means that no agent answers on the socket.
var ErrUnreachable = errors.New("the agent cannot be reached")

// maxAnswer bounds a response, in bytes. The endpoints of a full /16 take about 20 MiB.
const maxAnswer = 64 << 20

// Client calls an agent over its unix socket. It implements Service.
type Client struct {
	socket string
	http   *http.Client
}

var _ Service = (*Client)(nil)

// NewClient returns a client of the agent that listens on socket. It does not connect yet.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// Status implements Service.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return get[Status](ctx, c, "/v1/status")
}

// CreateNetwork implements Service.
func (c *Client) CreateNetwork(ctx context.Context, req CreateNetworkRequest) (Network, error) {
	return call[Network](ctx, c, http.MethodPost, "/v1/networks", req)
}

// Networks implements Service.
func (c *Client) Networks(ctx context.Context) ([]Network, error) {
	return get[[]Network](ctx, c, "/v1/networks")
}

// Network implements Service.
func (c *Client) Network(ctx context.Context, id string) (Network, error) {
	if err := CheckNetworkRef(id); err != nil {
		return Network{}, err
	}
	return get[Network](ctx, c, "/v1/networks/"+url.PathEscape(id))
}

// DeleteNetwork implements Service.
func (c *Client) DeleteNetwork(ctx context.Context, id string) error {
	if err := CheckNetworkRef(id); err != nil {
		return err
	}
	return do(ctx, c, http.MethodDelete, "/v1/networks/"+url.PathEscape(id))
}

// Endpoints implements Service.
func (c *Client) Endpoints(ctx context.Context) ([]Endpoint, error) {
	return get[[]Endpoint](ctx, c, "/v1/endpoints")
}

// AllEndpoints implements Service.
func (c *Client) AllEndpoints(ctx context.Context) ([]Endpoint, error) {
	return get[[]Endpoint](ctx, c, "/v1/endpoints?all=true")
}

// Endpoint implements Service.
func (c *Client) Endpoint(ctx context.Context, ref string) (Endpoint, error) {
	if err := checkEndpointRef(ref); err != nil {
		return Endpoint{}, err
	}
	return get[Endpoint](ctx, c, "/v1/endpoints/"+url.PathEscape(ref))
}

// Drops implements Service.
func (c *Client) Drops(ctx context.Context) (map[string]Drops, error) {
	return get[map[string]Drops](ctx, c, "/v1/drops")
}

// Hold implements Service.
func (c *Client) Hold(ctx context.Context, req HoldRequest) (Hold, error) {
	return call[Hold](ctx, c, http.MethodPost, "/v1/holds", req)
}

// Unhold implements Service.
func (c *Client) Unhold(ctx context.Context, network, ip string) error {
	if err := errors.Join(CheckNetworkRef(network), checkAddress(ip)); err != nil {
		return err
	}
	return do(ctx, c, http.MethodDelete, "/v1/holds/"+url.PathEscape(network)+"/"+url.PathEscape(ip))
}

// Describe implements Service.
func (c *Client) Describe(ctx context.Context, req DescribeRequest) (Endpoint, error) {
	return call[Endpoint](ctx, c, http.MethodPost, "/v1/describe", req)
}

// Publish implements Service.
func (c *Client) Publish(ctx context.Context, id string, ports []PortMapping) (Endpoint, error) {
	return call[Endpoint](ctx, c, http.MethodPost, "/v1/publish", publishRequest{ID: id, Ports: ports})
}

// SetRoutes implements Service.
func (c *Client) SetRoutes(ctx context.Context, id string, prefixes []string) (Endpoint, error) {
	return call[Endpoint](ctx, c, http.MethodPost, "/v1/routes", routesRequest{ID: id, Routes: prefixes})
}

// Reserve implements Service.
func (c *Client) Reserve(ctx context.Context, req ReserveRequest) (Endpoint, error) {
	return call[Endpoint](ctx, c, http.MethodPost, "/v1/endpoints", req)
}

// Attach implements Service.
func (c *Client) Attach(ctx context.Context, req AttachRequest) (Endpoint, error) {
	return call[Endpoint](ctx, c, http.MethodPost, "/v1/attach", req)
}

// Detach implements Service.
func (c *Client) Detach(ctx context.Context, id string) error {
	if err := CheckEndpointID(id); err != nil {
		return err
	}
	return do(ctx, c, http.MethodPost, "/v1/endpoints/"+url.PathEscape(id)+"/detach")
}

// Release implements Service.
func (c *Client) Release(ctx context.Context, id string) error {
	if err := CheckEndpointID(id); err != nil {
		return err
	}
	return do(ctx, c, http.MethodDelete, "/v1/endpoints/"+url.PathEscape(id))
}

func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	return call[T](ctx, c, http.MethodGet, path, nil)
}

func do(ctx context.Context, c *Client, method, path string) error {
	_, err := call[struct{}](ctx, c, method, path, nil)
	return err
}

// call sends body as JSON unless it is nil, and decodes the response.
func call[T any](ctx context.Context, c *Client, method, path string, body any) (T, error) {
	var answer T
	var payload io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return answer, fmt.Errorf("encode request: %w", err)
		}
		payload = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, payload)
	if err != nil {
		return answer, fmt.Errorf("make request: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return answer, c.unreachable(ctx, err)
	}
	defer resp.Body.Close() //nolint:errcheck // reading has ended either way
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return answer, c.unreachable(ctx, err)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return answer, decodeError(resp.StatusCode, data)
	}
	if resp.StatusCode == http.StatusNoContent {
		return answer, nil
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return answer, fmt.Errorf("answer of the agent to %s %s: %w", method, path, err)
	}
	return answer, nil
}

// unreachable converts a transport error into an error that names the remedy.
func (c *Client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("no answer from the agent on %s: %w", c.socket, ctx.Err())
	}
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w: no permission to use %s; run as root or join the group \"socketplane\"", ErrUnreachable, c.socket)
	}
	return fmt.Errorf("%w on %s; is it running? start it with: socketplane agent start (%w)", ErrUnreachable, c.socket, rootCause(err))
}

func rootCause(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}

func decodeError(status int, data []byte) error {
	var body errorBody
	if err := json.Unmarshal(data, &body); err != nil || body.Error.Code == "" {
		return Errorf(CodeInternal, "the agent answered with HTTP status %d", status)
	}
	e := &Error{Code: body.Error.Code, Message: body.Error.Message}
	if body.Error.Cause != "" {
		e.Cause = errors.New(body.Error.Cause)
	}
	return e
}
