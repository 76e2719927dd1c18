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
	cmd    *exec.Cmd
	stdout bytes.Buffer
}

func startPings(t testing.TB, from end, to string) *pings {
	t.Helper()
	p := &pings{}
	eventually(t, eventualWait, "the first ping", func() error { return from.pings(t, to) })
	p.cmd = hosts.Host(from.host).Command(context.Background(), "ip", "netns", "exec", from.name, "ping", "-i", "0.02", to)
	p.cmd.Stdout = &p.stdout
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() }) // it has ended already
	return p
}

// underWay is how many of the last pings may have no answer yet: a tenth of a second.
const underWay = 5

// lostNothing ends the pings, and says which have no answer.
func (p *pings) lostNothing(t testing.TB) {
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
	out, sums, _ := strings.Cut(p.stdout.String(), "\n--- ")
	answered := map[int]bool{}
	for _, line := range strings.Split(out, "\n") {
		if _, after, ok := strings.Cut(line, " bytes from "); ok {
			_, seq, _ := strings.Cut(after, "icmp_seq=")
			var n int
			if _, err := fmt.Sscanf(seq, "%d", &n); err != nil {
				t.Fatalf("%v in %q", err, line)
			}
			answered[n] = true
		}
	}
	_, counts, _ := strings.Cut(sums, "\n")
	var sent int
	if _, err := fmt.Sscanf(counts, "%d packets transmitted", &sent); err != nil {
		t.Fatalf("%v in %q", err, sums)
	}
	var lost []int
	for n := 1; n <= sent-underWay; n++ {
		if !answered[n] {
			lost = append(lost, n)
		}
	}
	if len(lost) > 0 || sent <= underWay {
		t.Errorf("of %d pings, one each 20 ms, these were lost: %d", sent, lost)
	}
	t.Log(strings.TrimSpace(counts))
}
