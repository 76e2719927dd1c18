package systemtest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// othersRuns is how many containers come and go beside a running ping.
const othersRuns = 8

// forgiven is the share of 10 ms probes that may be lost beside containers that
// come and go: the userspace switch drops a few when its own ports change. With
// routes that were not pinned it dropped one or two for each container.
const forgiven = 0.02

// forgivenRun is how many probes in a row may be lost: a pause of 150 ms. It keeps
// a long test from hiding a real outage within its share.
const forgivenRun = 15

// forgivenEach is how many may be lost for each container that comes and goes: the
// quicker they do, the fewer probes there are beside them to take a share of.
const forgivenEach = 1

// lostLittle ends a prober, which may have lost what is forgiven and no more.
func lostLittle(t testing.TB, p *prober) {
	t.Helper()
	lostBeside(t, p, 0)
}

// lostBeside is lostLittle beside a number of containers that came and went.
func lostBeside(t testing.TB, p *prober, containers int) {
	t.Helper()
	sent, lost := p.finish(probeGrace)
	longest := longestRun(lost)
	most := max(forgiven*float64(sent), forgivenEach*float64(containers))
	if float64(len(lost)) > most || longest > forgivenRun {
		t.Errorf("%s: lost %d of %d, %d in a row: %v", p.name, len(lost), sent, longest, lost)
	}
	t.Logf("%s: lost %d of %d, %d in a row", p.name, len(lost), sent, longest)
}

// longestRun is the length of the longest run of consecutive numbers in a sorted list.
func longestRun(numbers []int) (longest int) {
	run := 0
	for i, n := range numbers {
		if run++; i > 0 && n != numbers[i-1]+1 {
			run = 1
		}
		longest = max(longest, run)
	}
	return longest
}

// Promise: containers that come and go cost the others next to nothing, on the
// same network or another, on either end of a tunnel: not many packets, and no pause.
func TestOthersCostNothing(t *testing.T) {
	makeNetwork(t, 2, "calm", "10.161.0.0/24")
	makeNetwork(t, 2, "busy", "10.162.0.0/24")
	a, b := runContainer(t, 1, "calm", "calm-a"), runContainer(t, 2, "calm", "calm-b")
	eventually(t, "reach each other", func() error { return a.pings(t, b.ip) })
	for _, network := range []string{"calm", "busy"} {
		for k := 1; k <= 2; k++ {
			name := fmt.Sprintf("containers on %s, h%d", network, k)
			t.Run(name, func(t *testing.T) {
				there := startProbe(t, name, a.namespace(t), b.ip)
				back := startProbe(t, name+", back", b.namespace(t), a.ip)
				for range othersRuns {
					sp(t, k, "run", "--rm", "-n", network, lab.Image, "true")
				}
				lostBeside(t, there, othersRuns)
				lostBeside(t, back, othersRuns)
			})
		}
	}
}

// Promise: the first packet between two containers that never met arrives.
func TestFirstPacketArrives(t *testing.T) {
	makeNetwork(t, 1, "firstpacket", "10.163.0.0/24")
	a, b := runContainer(t, 1, "firstpacket", "fp-a"), runContainer(t, 3, "firstpacket", "fp-b")
	eventually(t, "h1 knows the other", func() error {
		// Asking costs no packet on the wire.
		flows := must(t, 1, "ovs-ofctl", "-O", "OpenFlow13", "dump-flows", "docker0-ovs")
		if want := "arp_tpa=" + b.ip; !strings.Contains(flows, want) {
			return fmt.Errorf("no flow with %s", want)
		}
		return nil
	})
	if err := a.pings(t, b.ip, patiently...); err != nil {
		t.Error(err)
	}
}
