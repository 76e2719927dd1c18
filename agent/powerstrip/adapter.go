// Package powerstrip owns what changes a Docker API request on its way: the
// adapter of Powerstrip's protocol 1, and a small proxy in front of dockerd that
// runs the same hook in process. It names the network of a container that is
// being created; it never touches a network itself.
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

// Protocol is the version of Powerstrip's protocol that the adapter speaks.
const Protocol = 1

// MaxCreate bounds the body of a container's creation, in bytes. Docker's own
// clients stay below 100 KiB.
const MaxCreate = 4 << 20

// maxEnvelope bounds what Powerstrip sends: a body as a JSON string, whose
// quotes each take two bytes.
const maxEnvelope = 2*MaxCreate + 64<<10

// Networks is what the adapter asks of an agent.
type Networks interface {
	Networks(ctx context.Context) ([]api.Network, error)
	Network(ctx context.Context, id string) (api.Network, error)
	CreateNetwork(ctx context.Context, req api.CreateNetworkRequest) (api.Network, error)
}

// Config is what an adapter works with.
type Config struct {
	Networks Networks
	// DockerNetwork gives the name under which Docker on this host knows a
	// network of ours. It waits some seconds for Docker to have it.
	DockerNetwork func(ctx context.Context, network string) (string, error)
	BodyTimeout   time.Duration // how long a body that is read whole may take to come; 0: 30 s
	Logger        *slog.Logger
}

// Adapter serves Powerstrip's protocol over HTTP, and Create in process.
type Adapter struct{ cfg Config }

// NewAdapter makes an adapter.
func NewAdapter(cfg Config) *Adapter {
	cfg.BodyTimeout = cmp.Or(cfg.BodyTimeout, bodyTimeout)
	return &Adapter{cfg: cfg}
}

// createPath is Docker's path of a container's creation, with and without a version.
var createPath = regexp.MustCompile(`^(/v[0-9][0-9.]*)?/containers/create$`)

// IsCreate says whether a request, its path decoded and without its query,
// creates a container.
func IsCreate(method, path string) bool {
	return method == http.MethodPost && createPath.MatchString(path)
}

// ServeHTTP answers a hook with the changed request or response. A refusal is an
// answer too, since Powerstrip knows no other; see refusedCreate. What is no
// message of the protocol is an HTTP error.
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
	_, _ = w.Write(answer) // nobody is left to be told
}

// hook answers one message of the protocol. It fails for what is none.
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

// object reads an object that a message has to have.
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

// pre changes the body of a request that creates a container, and nothing else.
func (a *Adapter) pre(ctx context.Context, request *jsonobject.Object) error {
	var method, target string
	if json.Unmarshal(request.Get("Method"), &method) != nil || json.Unmarshal(request.Get("Request"), &target) != nil {
		return api.Errorf(api.CodeInvalid, "ClientRequest needs a Method and a Request, both texts")
	}
	path, _, _ := strings.Cut(target, "?")
	if decoded, err := url.PathUnescape(path); err == nil {
		path = decoded // as dockerd reads it
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

// bodyTimeout bounds how long a body that is read whole may take to come,
// unless the Config says otherwise.
const bodyTimeout = 30 * time.Second

// errTooLarge is a body that is larger than what is read whole.
var errTooLarge = errors.New("too large")

func tooLarge(limit int64) error {
	return fmt.Errorf("request body is %w: %d bytes is the most", errTooLarge, limit)
}

// readBody reads a body whole, within limit bytes and the body's timeout.
func (a *Adapter) readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	// Not every ResponseWriter has deadlines; the server's own then bound it.
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
