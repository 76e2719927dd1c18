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
	tcpRuns    = 9
	tcpSeconds = "2"
	pingRuns   = 20
)

// path is a way between a namespace on h1 and one on h2.
type path struct {
	name, ns, to string
	tcp          []float64 // Mbit/s, one a run
	rtt          []float64 // ms, one a packet
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
	ours := &path{name: "socketplane", ns: "perf"}
	hand := &path{name: "by hand", ns: "hand", to: "10.77.0.2"}
	for k := 1; k <= 2; k++ {
		if err := wire(ctx, l.Host(k), k); err != nil {
			return err
		}
		if err := each(ctx, l.Host(k),
			"ip netns add perf",
			"socketplane connect -n "+network+" --netns /run/netns/perf --id perf",
			"ip netns exec perf iperf3 -s -D", "ip netns exec hand iperf3 -s -D"); err != nil {
			return err
		}
	}
	to, err := address(ctx, l.Host(2), "perf")
	if err != nil {
		return err
	}
	ours.to = to
	for _, p := range []*path{ours, hand} {
		if err := p.warm(ctx, l.Host(1)); err != nil {
			return err
		}
	}
	for range tcpRuns {
		for _, p := range []*path{ours, hand} {
			if err := p.measureTCP(ctx, l.Host(1)); err != nil {
				return err
			}
		}
	}
	for range pingRuns {
		for _, p := range []*path{ours, hand} {
			if err := p.measureRTT(ctx, l.Host(1)); err != nil {
				return err
			}
		}
	}
	fmt.Fprintf(out, "\nAcross hosts, userspace datapath, medians of %d runs of TCP and %d round trips, in turn\n", tcpRuns, len(ours.rtt))
	for _, p := range []*path{ours, hand} {
		fmt.Fprintf(out, "%-12s TCP %.0f Mbit/s, round trip %.3f ms\n", p.name, median(p.tcp), median(p.rtt))
	}
	fmt.Fprintf(out, "%-12s TCP %.2f, round trip %.2f\n", "ratio", median(ours.tcp)/median(hand.tcp), median(ours.rtt)/median(hand.rtt))
	return nil
}

// wire makes host k's half of the tunnel by hand: a bridge that learns, a
// VXLAN port to the other host, and a namespace behind a veth.
func wire(ctx context.Context, h *lab.Host, k int) error {
	self, other := strconv.Itoa(k), strconv.Itoa(3-k)
	return each(ctx, h,
		"ovs-vsctl -t 5 add-br br-hand -- set bridge br-hand datapath_type=netdev",
		"ovs-vsctl -t 5 add-port br-hand vxhand -- set interface vxhand type=vxlan options:remote_ip=198.18.0."+other+
			" options:local_ip=198.18.0."+self+" options:key=77",
		"ip netns add hand",
		"ip link add hand0 mtu 1450 type veth peer name eth0 mtu 1450 netns hand",
		"ip netns exec hand ethtool -K eth0 tx off",
		"ip -n hand addr add 10.77.0."+self+"/24 dev eth0",
		"ip -n hand link set eth0 up", "ip -n hand link set lo up",
		"ip link set hand0 up",
		"ovs-vsctl -t 5 add-port br-hand hand0",
	)
}

// each runs commands without special characters, one after the other.
func each(ctx context.Context, h *lab.Host, commands ...string) error {
	for _, c := range commands {
		if _, err := h.Exec(ctx, "sh", "-c", "exec "+c+" >/dev/null"); err != nil {
			return err
		}
	}
	return nil
}

func (p *path) warm(ctx context.Context, h *lab.Host) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		_, err := h.Exec(ctx, "ip", "netns", "exec", p.ns, "ping", "-c", "3", "-i", "0.2", "-W", "1", p.to)
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

func (p *path) measureTCP(ctx context.Context, h *lab.Host) error {
	said, err := h.Exec(ctx, "ip", "netns", "exec", p.ns, "iperf3", "-c", p.to, "-t", tcpSeconds, "-J")
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
	p.tcp = append(p.tcp, r.End.Received.Rate/1e6)
	return nil
}

var roundTrip = regexp.MustCompile(`time=([0-9.]+) ms`)

// measureRTT adds the round trip of each of a hundred packets. Their median says
// more than averages of series: one pause of a busy machine is one packet in it.
func (p *path) measureRTT(ctx context.Context, h *lab.Host) error {
	said, err := h.Exec(ctx, "ip", "netns", "exec", p.ns, "ping", "-c", "100", "-i", "0.01", p.to)
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
		p.rtt = append(p.rtt, v)
	}
	return nil
}
