package powerstrip

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// streamPaths matches the calls that older clients turn into a stream without requesting
// an upgrade: dockerd answers 200, and then both sides just send.
var streamPaths = regexp.MustCompile(`^(/v[0-9][0-9.]*)?/(containers/[^/]+/attach|exec/[^/]+/start)$`)

// rawStreams are the content types of responses after which the connection is no longer
// HTTP.
var rawStreams = []string{"application/vnd.docker.raw-stream", "application/vnd.docker.multiplexed-stream"}

// wantsStream reports whether a request may end HTTP on its connection.
// httputil.ReverseProxy cannot handle these requests: it does not support the older way,
// drops data that the client sent ahead, and ends both directions when the client's
// direction ends, so that `cat | docker exec -i` loses its output (Go 1.26).
func wantsStream(r *http.Request) bool {
	return upgrade(r.Header) != "" || r.Method == http.MethodPost && streamPaths.MatchString(r.URL.Path)
}

// upgrade returns the protocol in the Upgrade header if Connection includes "upgrade".
func upgrade(h http.Header) string {
	for _, line := range h["Connection"] {
		for token := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(token), "upgrade") {
				return h.Get("Upgrade")
			}
		}
	}
	return ""
}

// stream forwards a request over its own connection. If dockerd agrees to a stream, stream
// joins the two connections.
func (p *Proxy) stream(w http.ResponseWriter, r *http.Request) {
	// Without the request's context: http.Server cancels it when the client closes its
	// sending half, but here the client still waits for the output.
	ctx, done, err := p.streams.begin(context.WithoutCancel(r.Context()))
	if err != nil {
		Refuse(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	defer done()
	back, err := p.dial(ctx)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	defer back.Close() //nolint:errcheck // each direction was ended before, or has failed
	// Shutdown of the proxy ends both sides, whatever they wait for.
	defer context.AfterFunc(ctx, func() { _ = back.Close() })()

	resp, from, err := ask(back, r)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	if !isStream(resp) {
		defer resp.Body.Close()
		defer context.AfterFunc(r.Context(), func() { _ = back.Close() })()
		copyAnswer(w, resp)
		return
	}
	front, sent, err := http.NewResponseController(w).Hijack()
	if err != nil {
		p.fail(w, r, err)
		return
	}
	defer front.Close() //nolint:errcheck // as above
	defer context.AfterFunc(ctx, func() { _ = front.Close() })()
	if err := writeHead(front, resp); err != nil {
		return // the client has gone
	}
	join(end{front, sent.Reader}, end{back, from})
}

// ask sends the request and reads the head of the response.
func ask(back net.Conn, r *http.Request) (*http.Response, *bufio.Reader, error) {
	out := r.Clone(r.Context())
	out.URL.Scheme, out.URL.Host, out.Host = "http", "docker", "docker"
	out.Close = false
	protocol := upgrade(r.Header)
	dropHopByHop(out.Header)
	if protocol != "" {
		out.Header.Set("Connection", "Upgrade")
		out.Header.Set("Upgrade", protocol)
	}
	if _, named := out.Header["User-Agent"]; !named {
		out.Header.Set("User-Agent", "") // otherwise Go adds its own
	}
	if err := out.Write(back); err != nil {
		return nil, nil, fmt.Errorf("send to dockerd: %w", err)
	}
	from := bufio.NewReader(back)
	for {
		resp, err := http.ReadResponse(from, out)
		if err != nil {
			return nil, nil, fmt.Errorf("answer of dockerd: %w", err)
		}
		// Other 1xx responses only announce that more follows.
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			return resp, from, nil
		}
	}
}

// isStream reports whether HTTP ends with the head of this response.
func isStream(resp *http.Response) bool {
	return resp.StatusCode == http.StatusSwitchingProtocols ||
		resp.StatusCode == http.StatusOK && resp.ContentLength < 0 && len(resp.TransferEncoding) == 0 &&
			slices.Contains(rawStreams, resp.Header.Get("Content-Type"))
}

// writeHead writes the status and the header unchanged.
func writeHead(to io.Writer, resp *http.Response) error {
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 %s\r\n", resp.Status)
	_ = resp.Header.Write(&b) // writing to a Builder cannot fail
	b.WriteString("\r\n")
	_, err := io.WriteString(to, b.String())
	return err
}

// copyAnswer forwards a response that is not a stream: an error, or that of a detached
// exec.
func copyAnswer(w http.ResponseWriter, resp *http.Response) {
	dropHopByHop(resp.Header)
	for key, values := range resp.Header {
		w.Header()[key] = values
	}
	w.WriteHeader(resp.StatusCode)
	flushing := &flusher{w: w, flush: http.NewResponseController(w).Flush}
	_, _ = io.Copy(flushing, resp.Body) // the client sees where the response ends
}

// flusher flushes after every write.
type flusher struct {
	w     io.Writer
	flush func() error
}

func (f *flusher) Write(b []byte) (int, error) {
	n, err := f.w.Write(b)
	if err == nil {
		err = f.flush()
	}
	return n, err
}

// dropHopByHop removes the headers that apply to one connection only (RFC 9110, 7.6.1).
func dropHopByHop(h http.Header) {
	for _, line := range h["Connection"] {
		for token := range strings.SplitSeq(line, ",") {
			if token = strings.TrimSpace(token); token != "" {
				h.Del(token)
			}
		}
	}
	for _, key := range []string{"Connection", "Proxy-Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade"} {
		h.Del(key)
	}
}
