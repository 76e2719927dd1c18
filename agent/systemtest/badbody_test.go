package systemtest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	// swallowed is the most that may be sent of a body without an end before the
	// answer is there: what the largest bound takes, and what the sockets hold.
	swallowed = 64 << 20
	// grown is by how much the agent may grow for all of it, in KiB. The adapter alone
	// may have to hold 8 MiB, at two doors, and the garbage collector lets the heap
	// double, or more when other processes take the CPUs.
	grown = 64 << 10
	// stalled is how many connections each door keeps open for bodies that do
	// not come.
	stalled = 20
)

// bodyDoor is a way on which a body comes to the agent.
type bodyDoor struct{ name, socket, path string }

func (d bodyDoor) dial(t testing.TB, k int) net.Conn {
	t.Helper()
	var conn net.Conn
	var err error
	if d.socket == "" {
		conn, err = dialInside(within(t), k, "tcp", "127.0.0.1:6675")
	} else {
		var nd net.Dialer
		conn, err = nd.DialContext(within(t), "unix", insideHost(t, k, d.socket))
	}
	if err != nil {
		t.Fatal(d.name, err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// post sends the head of a request, with more header lines.
func (d bodyDoor) post(t testing.TB, conn net.Conn, header string) {
	t.Helper()
	if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: localhost:6675\r\n%s\r\n\r\n", d.path, header); err != nil {
		t.Fatal(d.name, err)
	}
}

// Promise: a body of 10 GB is refused after its bound, and one that does not come
// keeps nobody else waiting and ends, on every socket of the agent; its memory
// stays as it was.
func TestHostileBodies(t *testing.T) {
	restartAgent(t, 2, "SOCKETPLANE_API_LEGACY=true")
	t.Cleanup(func() { restartAgent(t, 2) })
	const own, plugin = "/run/socketplane/socketplane.sock", "/run/docker/plugins/socketplane.sock"
	doors := []bodyDoor{
		{"the API", own, "/v1/networks"},
		{"the API of 2015", own, "/v0.1/networks"},
		{"the adapter", own, "/adapter"},
		{"the port of 2015", "", "/v0.1/connections"},
		{"the port's adapter", "", "/v0.1/adapter"},
		{"the driver", plugin, "/NetworkDriver.Join"},
		{"the driver's addresses", plugin, "/IpamDriver.RequestAddress"},
	}
	before := traces(t, 2)
	pid := strings.TrimSpace(must(t, 2, "cat", "/run/socketplane/agent.pid"))
	must(t, 2, "sh", "-c", "echo 5 > /proc/"+pid+"/clear_refs") // the highest begins anew (proc(5))
	first := highest(t, 2, pid)

	var waiting []net.Conn
	for _, d := range doors {
		for range stalled {
			conn := d.dial(t, 2)
			d.post(t, conn, "Content-Length: 10000000000")
			if _, err := io.WriteString(conn, "{"); err != nil {
				t.Fatal(d.name, err)
			}
			waiting = append(waiting, conn)
		}
	}
	for _, d := range doors {
		for _, header := range []string{"Content-Length: 10000000000", "Transfer-Encoding: chunked"} {
			t.Run(d.name+" "+header, func(t *testing.T) { d.endless(t, header) })
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // they wait half a minute
	defer cancel()
	eventuallyIn(t, 5*time.Second, fmt.Sprintf("the agent is well beside %d bodies that do not come", len(waiting)), func() error {
		if st, err := agentOn(t, 2).Status(ctx); err != nil || !st.Ready || len(st.Problems) > 0 {
			return fmt.Errorf("%+v, %v", st, err)
		}
		return nil
	})
	if now := highest(t, 2, pid); now > first+grown {
		t.Errorf("the agent has grown from %d to %d KiB", first, now)
	} else {
		t.Logf("the agent has grown from %d to %d KiB", first, now)
	}
	if os.Getenv("SOCKETPLANE_TEST_LONG") != "" { // its patience is half a minute
		for _, conn := range waiting {
			_ = conn.SetReadDeadline(time.Now().Add(40 * time.Second))
			if _, err := io.Copy(io.Discard, conn); err != nil && os.IsTimeout(err) {
				t.Errorf("a body that does not come is still waited for: %s", conn.RemoteAddr())
			}
		}
	}
	for _, conn := range waiting {
		_ = conn.Close()
	}
	leavesNothing(t, 2, before)
}

// endless sends a body until there is an answer, which must be a refusal.
func (d bodyDoor) endless(t *testing.T, header string) {
	conn := d.dial(t, 2)
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	d.post(t, conn, header)
	answered := make(chan struct{})
	var sent int
	var sender sync.WaitGroup
	sender.Go(func() {
		piece := append([]byte(`{"a":"`), make([]byte, 64<<10-6)...)
		for i := 6; i < len(piece); i++ {
			piece[i] = 'x'
		}
		for {
			select {
			case <-answered:
				return
			default:
			}
			if strings.HasPrefix(header, "Transfer") {
				if _, err := fmt.Fprintf(conn, "%x\r\n", len(piece)); err != nil {
					return
				}
			}
			n, err := conn.Write(piece)
			sent += n
			if err != nil {
				return // the other end has closed: it has answered before
			}
			if strings.HasPrefix(header, "Transfer") {
				if _, err := io.WriteString(conn, "\r\n"); err != nil {
					return
				}
			}
		}
	})
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	close(answered)
	if err != nil {
		_ = conn.Close()
		sender.Wait()
		t.Fatalf("no answer after %d bytes: %v", sent, err)
	}
	said, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<12))
	_ = conn.Close()
	sender.Wait()
	_ = resp.Body.Close()
	refused := resp.StatusCode >= 400 && resp.StatusCode <= 500 && len(said) > 0
	if strings.HasSuffix(d.name, "adapter") { // Powerstrip knows no refusal: a request that dockerd refuses is one
		refused = resp.StatusCode == http.StatusOK && bytes.Contains(said, []byte("refused-by-socketplane"))
	}
	if !refused || sent > swallowed {
		t.Errorf("%d bytes were sent, the answer is %s %.200q", sent, resp.Status, said)
	}
}

// highest is the most memory that a process has had, in KiB.
func highest(t testing.TB, k int, pid string) (kib int) {
	t.Helper()
	out := must(t, k, "grep", "VmHWM", "/proc/"+pid+"/status")
	if _, err := fmt.Sscanf(out, "VmHWM: %d kB", &kib); err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	return kib
}
