package clustertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

const hostToken = "/etc/socketplane/cluster.token"

// Hosts find their cluster by mDNS, nobody logging in to them, beside a machine
// that wants to be taken for it.
func TestDiscovery(t *testing.T) {
	freshHosts(t)
	wire := listen(t)
	token := must(t, 1, "socketplane", "cluster", "token", "--new")
	var r *rogue
	step := func(name string, f func(t *testing.T)) {
		t.Helper()
		if !t.Run(name, f) {
			t.FailNow() // what follows stands on it
		}
	}

	step("a host with a token waits for its cluster", func(t *testing.T) {
		give(t, 2, token)
		begin(t, 2, "")
		awaitProblem(t, 2, hostToken, "198.18.0.2", "cluster bootstrap")
	})

	r = startRogue(t, 5)
	step("it joins when there is one, and not the rogue's", func(t *testing.T) {
		give(t, 1, token)
		begin(t, 1, "")
		awaitProblem(t, 1, "198.18.0.5", "socketplane cluster token") // the rogue's is announced, and of another token
		sp(t, 1, "cluster", "bootstrap")
		began := time.Now()
		awaitPeers(t, 2, addr1)
		t.Logf("h2 was in the cluster %s after bootstrap had ended", time.Since(began).Round(time.Millisecond))
		give(t, 3, token)
		start(t, 3, "")
		began = time.Now()
		awaitPeers(t, 3, addr1, addr2)
		t.Logf("h3 was in the cluster %s after its agent began", time.Since(began).Round(time.Millisecond))
		if out := sp(t, 1, "cluster", "token"); out != token {
			t.Error("the cluster has another token")
		}
	})

	step("a wrong token is told in one sentence, and nobody is joined", func(t *testing.T) {
		give(t, 4, must(t, 4, "socketplane", "cluster", "token", "--new"))
		begin(t, 4, "")
		awaitProblem(t, 4, hostToken, addr1, "socketplane cluster token")
		refused(t, try(t, 4, "", "socketplane", "cluster", "join"), "no host announces a cluster with this token", addr1)
		saysOnce(t, must(t, 4, "cat", "/var/log/socketplane.log"))
		if out := must(t, 4, "ls", "/var/lib/socketplane"); strings.Contains(out, "consul") || strings.Contains(out, "cluster.token") {
			t.Errorf("left behind: %s", out)
		}
	})

	step("a file for others to read is refused", func(t *testing.T) {
		give(t, 4, token)
		must(t, 4, "chmod", "644", hostToken)
		awaitProblem(t, 4, "chmod 600 "+hostToken)
	})

	step("the right token, and the running agent joins", func(t *testing.T) {
		must(t, 4, "chmod", "600", hostToken)
		awaitPeers(t, 4, addr1, addr2, addr3)
	})

	step("nobody called the rogue", func(t *testing.T) {
		if r.said.Load() < 1000 || r.heard.Load() < 5 {
			t.Errorf("it said %d messages and heard %d", r.said.Load(), r.heard.Load())
		}
		if n := r.called.Load(); n != 0 {
			t.Errorf("%d calls", n)
		}
		t.Logf("it said %d messages, and heard %d announcements", r.said.Load(), r.heard.Load())
		r.stop()
		for k := 1; k <= 4; k++ {
			if n := strings.Count(must(t, k, "cat", "/var/log/socketplane.log"), "in no cluster yet"); n > 4 {
				t.Errorf("h%d's log speaks of it %d times", k, n)
			}
		}
	})

	if os.Getenv("SOCKETPLANE_TEST_LONG") != "" { // 35 s
		step("who has left comes back when told, and not before", leftComesBack)
		step("two clusters with one token stay two, and none is chosen", twoClusters(token))
		step("a demonstration needs no token and says so", demonstration)
	}

	step("nobody could hear the token or the gossip", func(t *testing.T) {
		wire.tellsNoSecret(t, strings.TrimSpace(token))
		for k := 1; k <= 5; k++ {
			diskTellsNoSecret(t, k, strings.TrimSpace(token))
		}
		if len(wire.only(t, "udp port 5353")) < 100_000 {
			t.Error("the capture does not have what was said by mDNS")
		}
	})
}

// saysOnce looks for the sentence about another's token in an agent's log. Where
// that cluster was not heard in the first moment, the one before it may say so.
func saysOnce(t testing.TB, log string) {
	t.Helper()
	var said []string
	for _, line := range strings.Split(log, "\n") {
		if strings.Contains(line, "in no cluster yet") {
			said = append(said, line)
		}
	}
	rest := said
	if len(rest) > 0 && strings.Contains(rest[0], "no host announces a cluster with the token in "+hostToken) {
		rest = rest[1:]
	}
	if len(rest) != 1 || !strings.Contains(rest[0], "is not that of the cluster that is announced") {
		t.Errorf("the log says:\n%s", strings.Join(said, "\n"))
	}
}

func leftComesBack(t *testing.T) {
	awaitReady(t, 4)
	sp(t, 4, "cluster", "leave")
	awaitReady(t, 4)
	sp(t, 4, "agent", "restart")
	awaitReady(t, 4)
	stays(t, 4, 5*time.Second, "alone")
	sp(t, 4, "cluster", "join")
	awaitPeers(t, 4, addr1, addr2, addr3)
	if out := sp(t, 4, "cluster", "join"); !strings.Contains(out, "this host is in cluster") {
		t.Error(out)
	}
}

func twoClusters(token string) func(t *testing.T) {
	return func(t *testing.T) {
		awaitReady(t, 4)
		sp(t, 4, "cluster", "leave")
		must(t, 4, "rm", hostToken)
		begin(t, 5, "")
		if out := try(t, 5, token, "socketplane", "cluster", "bootstrap", "--token-file", "-"); out.code != 0 {
			t.Fatal(out.stderr)
		}
		refused(t, try(t, 4, token, "socketplane", "cluster", "join", "--token-file", "-"), "two clusters have this token", addr5, "cluster join ADDR")
		awaitServers(t, 5, 1, 1)
		awaitServers(t, 1, 3, 3)
		if out := join(t, 4, token, addr5); out.code != 0 {
			t.Fatal(out.stderr)
		}
		awaitServers(t, 5, 2, 1)
		awaitReady(t, 4)
		sp(t, 4, "cluster", "leave")
		sp(t, 5, "cluster", "leave")
	}
}

func demonstration(t *testing.T) {
	insecure := "[cluster]\ninsecure_autojoin = true\n"
	for k := 4; k <= 5; k++ {
		sp(t, k, "agent", "stop")
		must(t, k, "rm", "-f", "/var/lib/socketplane/cluster.json")
		begin(t, k, insecure)
		awaitProblem(t, k, "INSECURE", "insecure_autojoin")
	}
	if out := try(t, 5, "", "socketplane", "cluster", "bootstrap"); out.code != 0 || !strings.Contains(out.stderr, "INSECURE") {
		t.Fatal(out.code, out.stderr)
	}
	awaitPeers(t, 4, addr5)
	awaitProblem(t, 4, "INSECURE")
	if out := try(t, 4, "", "socketplane", "cluster", "members"); out.code != 0 || !strings.Contains(out.stderr, "INSECURE") {
		t.Error(out.stderr)
	}
	public := sp(t, 5, "cluster", "token")
	refused(t, try(t, 5, "", "socketplane", "cluster", "join", addr1), "already")
	awaitReady(t, 4)
	sp(t, 4, "cluster", "leave")
	sp(t, 4, "agent", "stop")
	begin(t, 4, "")
	refused(t, join(t, 4, public, addr5), "everybody knows", "insecure_autojoin")
	awaitServers(t, 1, 3, 3)
}

// freshHosts puts the lab's hosts anew: nothing is left of what another test did.
func freshHosts(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := hosts.Down(ctx); err != nil {
		t.Fatal(err)
	}
	anew, err := lab.Up(ctx, lab.Options{Hosts: 5, Bare: true, NoDocker: true, Out: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	hosts = anew
}

// give leaves a token where the agent looks for one, as cloud-init would.
func give(t testing.TB, k int, token string) {
	t.Helper()
	r := try(t, k, token, "sh", "-c", "umask 077 && cat >"+hostToken+".new && mv "+hostToken+".new "+hostToken)
	if r.code != 0 {
		t.Fatal(r.stderr)
	}
}

// awaitProblem waits until host k's status has a problem with all these words.
func awaitProblem(t testing.TB, k int, words ...string) {
	t.Helper()
	eventually(t, eventualWait, fmt.Sprintf("h%d speaks of %q", k, words), func() error {
		s, err := statusOf(t, k)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(s.Problems, func(p string) bool {
			return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(p, w) })
		}) {
			return fmt.Errorf("%q", s.Problems)
		}
		return nil
	})
}

// stays says that host k is what it is for a while.
func stays(t testing.TB, k int, while time.Duration, is string) {
	t.Helper()
	deadline := time.Now().Add(while)
	eventually(t, while+eventualWait, "it stays "+is, func() error {
		if out := must(t, k, "cat", "/var/lib/socketplane/cluster.json"); !strings.Contains(out, `"`+is+`"`) {
			t.Fatalf("h%d is %s", k, out)
		}
		if time.Now().Before(deadline) {
			return errors.New("a while has not gone")
		}
		return nil
	})
}
