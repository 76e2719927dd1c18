package clustertest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// wire is all that passed on the underlay.
type wire struct {
	file string
	cmd  *exec.Cmd
}

// listen captures the underlay until it is asked what was heard.
func listen(t testing.TB) *wire {
	t.Helper()
	w := &wire{file: filepath.Join(t.TempDir(), "wire.pcap")}
	// -Z root: it must write where it was told. -U: and at once.
	w.cmd = exec.Command("nsenter", "--net=/run/netns/"+lab.Prefix+"-"+lab.Underlay, "--",
		"tcpdump", "-i", "any", "-U", "-Z", "root", "-B", "65536", "-w", w.file, "tcp or udp")
	said, err := w.cmd.StderrPipe()
	if err == nil {
		err = w.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.end)
	for line := bufio.NewScanner(said); line.Scan(); {
		if strings.Contains(line.Text(), "listening on") {
			go func() { // else it could be kept waiting
				for line.Scan() {
				}
			}()
			return w
		}
	}
	t.Fatal("tcpdump does not listen")
	return nil
}

func (w *wire) end() {
	if w.cmd.ProcessState == nil {
		_ = w.cmd.Process.Signal(syscall.SIGINT)
		_ = w.cmd.Wait() // it ends by the signal
	}
}

// tellsNoSecret looks for the token in everything, and for gossip that anybody
// could read; there must have been much of that. Where a string must be found, as
// the calls to servers have it, the same look finds it.
func (w *wire) tellsNoSecret(t testing.TB, token string) {
	t.Helper()
	if h := w.keepsSecret(t, token); h.sealed < 50 || h.sealedStreams < 5 {
		t.Errorf("little encrypted gossip was heard: %+v", h)
	}
	gossip, calls := w.only(t, "port 8301"), w.only(t, "tcp port 8300")
	if len(gossip) < 100_000 || len(calls) < 100_000 {
		t.Errorf("only %d bytes of gossip and %d of calls were heard", len(gossip), len(calls))
	}
	if !bytes.Contains(calls, []byte("socketplane/v1/")) {
		t.Error("the capture has no call that is known to be there")
	}
}

// keepsSecret is the same where little may have been said.
func (w *wire) keepsSecret(t testing.TB, token string) heard {
	t.Helper()
	w.end()
	all, err := os.ReadFile(w.file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(all, []byte(token)) || bytes.Contains(all, []byte(token[4:30])) {
		t.Error("the token was on the wire")
	}
	gossip := w.only(t, "port 8301")
	// Words long enough not to turn up in what is encrypted.
	for _, word := range []string{"socketplane-", "consul", "probe-"} {
		if bytes.Contains(gossip, []byte(word)) {
			t.Errorf("gossip said %q for all to hear", word)
		}
	}
	// It is compressed, too: no word alone proves anything.
	h := gossipIn(t, all, 8301)
	if h.open > 0 || h.openStreams > 0 {
		t.Errorf("not all gossip was encrypted: %+v", h)
	}
	t.Logf("gossip on the wire: %+v", h)
	return h
}

// only gives the part of the capture that a filter of tcpdump lets pass.
func (w *wire) only(t testing.TB, filter string) []byte {
	t.Helper()
	out, err := exec.Command("tcpdump", "-r", w.file, "-w", "-", filter).Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// pings are sent every 20 ms until they are asked for.
type pings struct {
	cmd *exec.Cmd

	mu     sync.Mutex // of stdout, which grows meanwhile
	stdout bytes.Buffer
}

// Write takes what ping prints.
func (p *pings) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stdout.Write(b)
}

// printed gives the lines that are whole.
func (p *pings) printed() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	lines := strings.Split(p.stdout.String(), "\n")
	return lines[:len(lines)-1]
}

func startPings(t testing.TB, from end, to string) *pings {
	t.Helper()
	p := &pings{}
	eventually(t, eventualWait, "the first ping", func() error { return from.pings(t, to) })
	p.cmd = hosts.Host(from.host).Command(context.Background(), "ip", "netns", "exec", from.name, "ping", "-D", "-i", "0.02", to)
	p.cmd.Stdout = p
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() }) // it has ended already
	return p
}

// lostNothing waits until a ping is answered that was sent after this call, ends
// the pings, and says which of those before have no answer. Their answers may still
// be under way, or come in another order: they have as long as that one has.
func (p *pings) lostNothing(t testing.TB) {
	t.Helper()
	called := time.Now()
	deadline := called.Add(10 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var last int
	var lost []int
	for {
		last, lost = p.unanswered(t, called)
		if last > 0 && len(lost) == 0 {
			break
		}
		if time.Now().After(deadline) {
			break
		}
		<-tick.C
	}
	p.end(t)
	switch {
	case last == 0:
		printed := p.printed()
		t.Errorf("no ping sent in the last %s was answered; the last that were:\n%s",
			time.Since(called), strings.Join(printed[max(0, len(printed)-10):], "\n"))
	case len(lost) > 0:
		t.Errorf("of %d pings, one each 20 ms, these were lost: %d", last, lost)
	default:
		t.Logf("all of %d pings, one each 20 ms, were answered", last)
	}
}

// unanswered gives the number of the first answered ping that was sent after a
// time, 0 if there is none, and those before it that have no answer yet.
func (p *pings) unanswered(t testing.TB, since time.Time) (int, []int) {
	t.Helper()
	answered, last := map[int]bool{}, 0
	for _, line := range p.printed() {
		// [1795549987.672949] 64 bytes from 10.1.0.3: icmp_seq=1 ttl=64 time=0.037 ms
		head, rest, ok := strings.Cut(line, " bytes from ")
		if !ok {
			continue
		}
		_, rest, _ = strings.Cut(rest, "icmp_seq=")
		_, took, _ := strings.Cut(rest, "time=")
		var n int
		var at, ms float64
		_, atErr := fmt.Sscanf(head, "[%f]", &at)
		_, seqErr := fmt.Sscanf(rest, "%d", &n)
		_, tookErr := fmt.Sscanf(took, "%f", &ms)
		if err := errors.Join(atErr, seqErr, tookErr); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		answered[n] = true
		sent := time.UnixMicro(int64(at*1e6 - ms*1e3))
		if sent.After(since) && (last == 0 || n < last) {
			last = n
		}
	}
	var lost []int
	for n := 1; n < last; n++ {
		if !answered[n] {
			lost = append(lost, n)
		}
	}
	return last, lost
}

// end stops ping as ^C does.
func (p *pings) end(t testing.TB) {
	t.Helper()
	// nsenter passes no signal on: ping itself is its child.
	children, err := os.ReadFile("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/task/" + strconv.Itoa(p.cmd.Process.Pid) + "/children")
	pid, convErr := strconv.Atoi(strings.TrimSpace(string(children)))
	if err := errors.Join(err, convErr); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- p.cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("ping does not end")
	}
}
