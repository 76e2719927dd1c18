package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"time"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

const (
	// pairs of namespaces each way has. One pair's round trips may be a fifth longer
	// than its neighbour's, for as long as both are there: where its packets are
	// woken up is settled when it is made.
	pairs      = 5
	tcpSeconds = "2"
	tcpRounds  = 2
	pingRounds = 8
)

// way is a way for packets between h1 and h2.
type way struct {
	name, ns string    // of the namespaces; the pair's number follows
	to       []string  // addresses on h2, of each pair
	tcp      []float64 // Mbit/s, one a run
	rtt      []float64 // ms, one a packet
}

// across is throughput alone, on a lab of two.
func across(ctx context.Context) (err error) {
	l, err := lab.Up(ctx, lab.Options{Hosts: 2, Out: os.Stderr})
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, l.Down(end))
	}()
	if _, err := l.Host(1).Exec(ctx, "socketplane", "network", "create", network, "10.88.0.0/16"); err != nil {
		return err
	}
	return throughput(ctx, os.Stdout, l)
}

// throughput measures TCP and round trips between h1 and h2, through our
// network and beside it through a tunnel of the same datapath wired by hand.
func throughput(ctx context.Context, out io.Writer, l *lab.Lab) error {
	ours, hand := &way{name: "socketplane", ns: "perf"}, &way{name: "by hand", ns: "hand"}
	for k := 1; k <= 2; k++ {
		if err := wire(ctx, l.Host(k), k); err != nil {
			return err
		}
	}
	for n := range pairs {
		for k := 1; k <= 2; k++ {
			if err := pair(ctx, l.Host(k), n, k); err != nil {
				return err
			}
		}
		to, err := address(ctx, l.Host(2), fmt.Sprint("perf", n))
		if err != nil {
			return err
		}
		ours.to, hand.to = append(ours.to, to), append(hand.to, handAddress(n, 2))
	}
	inTurn := func(rounds int, measure func(w *way, n int) error) error {
		for range rounds {
			for n := range pairs {
				for _, w := range []*way{ours, hand} {
					if err := measure(w, n); err != nil {
						return err
					}
				}
			}
		}
		return nil
	}
	err := inTurn(1, func(w *way, n int) error { return w.warm(ctx, l.Host(1), n) })
	if err == nil {
		err = inTurn(tcpRounds, func(w *way, n int) error { return w.measureTCP(ctx, l.Host(1), n) })
	}
	if err == nil {
		err = inTurn(pingRounds, func(w *way, n int) error { return w.measureRTT(ctx, l.Host(1), n) })
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\nAcross hosts, userspace datapath, %d pairs each, medians of %d runs of TCP and %d round trips, in turn\n", pairs, len(ours.tcp), len(ours.rtt))
	for _, w := range []*way{ours, hand} {
		fmt.Fprintf(out, "%-12s TCP %.0f Mbit/s, round trip %.3f ms\n", w.name, median(w.tcp), median(w.rtt))
	}
	fmt.Fprintf(out, "%-12s TCP %.2f, round trip %.2f\n", "ratio", median(ours.tcp)/median(hand.tcp), median(ours.rtt)/median(hand.rtt))
	return nil
}

// wire makes host k's half of the tunnel by hand: a bridge that learns, and a
// VXLAN port to the other host.
func wire(ctx context.Context, h *lab.Host, k int) error {
	self, other := strconv.Itoa(k), strconv.Itoa(3-k)
	return each(ctx, h,
		"ovs-vsctl -t 5 add-br br-hand -- set bridge br-hand datapath_type=netdev",
		"ovs-vsctl -t 5 add-port br-hand vxhand -- set interface vxhand type=vxlan options:remote_ip=198.18.0."+other+
			" options:local_ip=198.18.0."+self+" options:key=77",
	)
}

// pair makes host k's namespaces of a pair, one each way.
func pair(ctx context.Context, h *lab.Host, n, k int) error {
	perf, hand := fmt.Sprint("perf", n), fmt.Sprint("hand", n)
	return each(ctx, h,
		"ip netns add "+hand,
		"ip link add "+hand+" mtu 1450 type veth peer name eth0 mtu 1450 netns "+hand,
		"ip netns exec "+hand+" ethtool -K eth0 tx off",
		"ip -n "+hand+" addr add "+handAddress(n, k)+"/24 dev eth0",
		"ip -n "+hand+" link set eth0 up", "ip -n "+hand+" link set lo up",
		"ip link set "+hand+" up",
		"ovs-vsctl -t 5 add-port br-hand "+hand,
		"ip netns add "+perf,
		"socketplane connect -n "+network+" --netns /run/netns/"+perf+" --id "+perf,
		"ip netns exec "+perf+" iperf3 -s -D", "ip netns exec "+hand+" iperf3 -s -D",
	)
}

func handAddress(n, k int) string { return fmt.Sprintf("10.77.%d.%d", n, k) }

// each runs commands without special characters, one after the other.
func each(ctx context.Context, h *lab.Host, commands ...string) error {
	for _, c := range commands {
		if _, err := h.Exec(ctx, "sh", "-c", "exec "+c+" >/dev/null"); err != nil {
			return err
		}
	}
	return nil
}

func (w *way) warm(ctx context.Context, h *lab.Host, n int) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		_, err := h.Exec(ctx, "ip", "netns", "exec", fmt.Sprint(w.ns, n), "ping", "-c", "3", "-i", "0.2", "-W", "1", w.to[n])
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

func (w *way) measureTCP(ctx context.Context, h *lab.Host, n int) error {
	said, err := h.Exec(ctx, "ip", "netns", "exec", fmt.Sprint(w.ns, n), "iperf3", "-c", w.to[n], "-t", tcpSeconds, "-J")
	if err != nil {
		return err
	}
	var r struct {
		End struct {
			Received struct {
				Rate float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal([]byte(said), &r); err != nil {
		return err
	}
	w.tcp = append(w.tcp, r.End.Received.Rate/1e6)
	return nil
}

var roundTrip = regexp.MustCompile(`time=([0-9.]+) ms`)

// measureRTT adds the round trip of each of fifty packets. Their median says
// more than averages of series: one pause of a busy machine is one packet in it.
func (w *way) measureRTT(ctx context.Context, h *lab.Host, n int) error {
	said, err := h.Exec(ctx, "ip", "netns", "exec", fmt.Sprint(w.ns, n), "ping", "-c", "50", "-i", "0.01", w.to[n])
	if err != nil {
		return err
	}
	answers := roundTrip.FindAllStringSubmatch(said, -1)
	if len(answers) == 0 {
		return fmt.Errorf("ping says no times: %s", said)
	}
	for _, m := range answers {
		v, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			return err
		}
		w.rtt = append(w.rtt, v)
	}
	return nil
}
