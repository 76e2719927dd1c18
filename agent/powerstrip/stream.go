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

// streamPaths are the calls that older clients turn into a stream without
// asking for an upgrade: dockerd answers 200 and then both sides just send.
var streamPaths = regexp.MustCompile(`^(/v[0-9][0-9.]*)?/(containers/[^/]+/attach|exec/[^/]+/start)$`)

// rawStreams are the types of an answer that is no HTTP any more.
var rawStreams = []string{"application/vnd.docker.raw-stream", "application/vnd.docker.multiplexed-stream"}

// wantsStream says whether a request may end HTTP on its connection. For these
// httputil.ReverseProxy will not do: it knows nothing of the older way, drops
// what the client sent ahead, and ends both directions when the client's ends, so
// that `cat | docker exec -i` loses its output (Go 1.26).
func wantsStream(r *http.Request) bool {
	return upgrade(r.Header) != "" || r.Method == http.MethodPost && streamPaths.MatchString(r.URL.Path)
}

// upgrade is the protocol that a header asks for, or agrees to.
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

// stream passes a request on over a connection of its own. When dockerd agrees,
// the two connections become one.
func (p *Proxy) stream(w http.ResponseWriter, r *http.Request) {
	// A client that has sent all of its input, and closed that half, counts as gone
	// to http.Server; here it waits for the output.
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
	// Whatever waits on either side ends with the proxy.
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

// ask sends the request and reads the head of the answer.
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
		out.Header.Set("User-Agent", "") // Go would write its own
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
		// 1xx but 101 says only that more is to come.
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			return resp, from, nil
		}
	}
}

// isStream says whether HTTP ends with the head of this answer.
func isStream(resp *http.Response) bool {
	return resp.StatusCode == http.StatusSwitchingProtocols ||
		resp.StatusCode == http.StatusOK && resp.ContentLength < 0 && len(resp.TransferEncoding) == 0 &&
			slices.Contains(rawStreams, resp.Header.Get("Content-Type"))
}

// writeHead writes status and header as they came.
func writeHead(to io.Writer, resp *http.Response) error {
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 %s\r\n", resp.Status)
	_ = resp.Header.Write(&b) // a Builder takes everything
	b.WriteString("\r\n")
	_, err := io.WriteString(to, b.String())
	return err
}

// copyAnswer passes an answer on that is no stream: a refusal, or a detached exec.
func copyAnswer(w http.ResponseWriter, resp *http.Response) {
	dropHopByHop(resp.Header)
	for key, values := range resp.Header {
		w.Header()[key] = values
	}
	w.WriteHeader(resp.StatusCode)
	flushing := &flusher{w: w, flush: http.NewResponseController(w).Flush}
	_, _ = io.Copy(flushing, resp.Body) // the client sees where it ends
}

// flusher passes on each piece at once.
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

// dropHopByHop takes out what is about one connection only (RFC 9110, 7.6.1).
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
