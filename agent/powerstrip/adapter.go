// Package powerstrip owns the code that changes a Docker API request on its way: the
// adapter for protocol 1 of Powerstrip, and a small proxy in front of dockerd that runs
// the same hook in process. It sets the network of a container that is being created. It
// never changes a network itself.
package powerstrip

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/jsonobject"
)

// Protocol is the version of Powerstrip's protocol that the adapter supports.
const Protocol = 1

// MaxCreate bounds the body of a request that creates a container, in bytes. Docker's own
// clients stay below 100 KiB.
const MaxCreate = 4 << 20

// maxEnvelope bounds a message of Powerstrip, in bytes. It contains the body as a JSON
// string, in which each quote takes two bytes.
const maxEnvelope = 2*MaxCreate + 64<<10

// Networks is the part of the agent that the adapter needs.
type Networks interface {
	Networks(ctx context.Context) ([]api.Network, error)
	Network(ctx context.Context, id string) (api.Network, error)
	CreateNetwork(ctx context.Context, req api.CreateNetworkRequest) (api.Network, error)
}

// Config configures an Adapter.
type Config struct {
	Networks Networks
	// DockerNetwork returns the Docker name of a network on this host. It waits a few
	// seconds until Docker has the network.
	DockerNetwork func(ctx context.Context, network string) (string, error)
	BodyTimeout   time.Duration // limit for the arrival of a body that is read as a whole; 0: 30 s
	Logger        *slog.Logger
}

// Adapter serves Powerstrip's protocol over HTTP, and Create in process.
type Adapter struct{ cfg Config }

// NewAdapter returns an Adapter.
func NewAdapter(cfg Config) *Adapter {
	cfg.BodyTimeout = cmp.Or(cfg.BodyTimeout, bodyTimeout)
	return &Adapter{cfg: cfg}
}

// createPath matches Docker's path for the creation of a container, with and without an
// API version.
var createPath = regexp.MustCompile(`^(/v[0-9][0-9.]*)?/containers/create$`)

// IsCreate reports whether a request creates a container. path is decoded and without the
// query.
func IsCreate(method, path string) bool {
	return method == http.MethodPost && createPath.MatchString(path)
}

// ServeHTTP answers a hook with the changed request or response. It also sends a rejection
// as one of these, because Powerstrip ignores the status of an answer; see refusedCreate.
// ServeHTTP returns an HTTP error if the body is not a message of the protocol.
func (a *Adapter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	data, err := a.readBody(w, r, maxEnvelope)
	var answer json.RawMessage
	switch {
	case err == nil:
		answer, err = a.hook(r.Context(), data)
	case isUnread(err):
		a.cfg.Logger.Warn("hook refused", "err", err)
		w.Header().Set("Connection", "close") // the rest of the body is not read
		answer, err = refusedUnread(err), nil
	}
	if err != nil {
		a.cfg.Logger.Warn("no message of Powerstrip's protocol", "err", err)
		writeError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(answer) // the caller has gone if this fails
}

// hook answers one message. It fails if data is not a message of the protocol.
func (a *Adapter) hook(ctx context.Context, data []byte) (json.RawMessage, error) {
	m, err := jsonobject.Parse(data)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, "the hook's message cannot be read: %w", err)
	}
	var version int
	if err := json.Unmarshal(m.Get("PowerstripProtocolVersion"), &version); err != nil || version != Protocol {
		return nil, api.Errorf(api.CodeInvalid, "PowerstripProtocolVersion is not %d, the only one spoken here", Protocol)
	}
	var kind string
	if err := json.Unmarshal(m.Get("Type"), &kind); err != nil {
		return nil, api.Errorf(api.CodeInvalid, "the hook's message has no Type; it is pre-hook or post-hook")
	}
	switch kind {
	case "pre-hook":
		request, err := object(m, "ClientRequest")
		if err == nil {
			err = a.pre(ctx, request)
		}
		if err != nil {
			a.cfg.Logger.Warn("container refused", "err", err)
			request = refusedCreate(request, err)
		}
		m.Set("ModifiedClientRequest", request.Bytes())
	case "post-hook":
		response, err := object(m, "ServerResponse")
		if err != nil {
			a.cfg.Logger.Warn("post-hook refused", "err", err)
			response = refusedResponse(err)
		}
		m.Set("ModifiedServerResponse", response.Bytes())
	default:
		return nil, api.Errorf(api.CodeInvalid, "Type %.40q is neither pre-hook nor post-hook", kind)
	}
	for _, key := range []string{"Type", "ClientRequest", "ServerResponse"} {
		m.Remove(key)
	}
	return m.Bytes(), nil
}

// object returns the object under a required key of a message.
func object(m *jsonobject.Object, key string) (*jsonobject.Object, error) {
	if jsonobject.IsNull(m.Get(key)) {
		return nil, api.Errorf(api.CodeInvalid, "the hook's message has no %s", key)
	}
	o, err := m.Child(key)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, "the hook's message cannot be read: %w", err)
	}
	return o, nil
}

// pre changes the body of a request that creates a container. It leaves other requests
// alone.
func (a *Adapter) pre(ctx context.Context, request *jsonobject.Object) error {
	var method, target string
	if json.Unmarshal(request.Get("Method"), &method) != nil || json.Unmarshal(request.Get("Request"), &target) != nil {
		return api.Errorf(api.CodeInvalid, "ClientRequest needs a Method and a Request, both texts")
	}
	path, _, _ := strings.Cut(target, "?")
	if decoded, err := url.PathUnescape(path); err == nil {
		path = decoded // as dockerd does
	}
	if !IsCreate(method, path) || jsonobject.IsNull(request.Get("Body")) {
		return nil
	}
	var body string
	if err := json.Unmarshal(request.Get("Body"), &body); err != nil {
		return api.Errorf(api.CodeInvalid, "ClientRequest's Body is neither a text nor null")
	}
	if len(body) > MaxCreate {
		return tooLarge(MaxCreate)
	}
	changed, err := a.Create(ctx, []byte(body))
	if err != nil {
		return err
	}
	if string(changed) != body {
		request.Set("Body", jsonobject.String(string(changed)))
	}
	return nil
}

// bodyTimeout is the default of Config.BodyTimeout.
const bodyTimeout = 30 * time.Second

// errTooLarge means that a body exceeds its size limit.
var errTooLarge = errors.New("too large")

func tooLarge(limit int64) error {
	return fmt.Errorf("request body is %w: %d bytes is the most", errTooLarge, limit)
}

// readBody reads a whole body, up to limit bytes and BodyTimeout.
func (a *Adapter) readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	// Errors are ignored: if the ResponseWriter has no deadlines, the server's own apply.
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(a.cfg.BodyTimeout))
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return nil, tooLarge(limit)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, fmt.Errorf("request body did not come within %s: %w", a.cfg.BodyTimeout, err)
	}
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, "request body ends too early: %w", err)
	}
	_ = rc.SetReadDeadline(time.Time{})
	return data, nil
}
