// Demo is what `make demo` runs: three hosts, one network, and containers that
// reach each other. It leaves the lab up for whoever wants to go on by hand.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

const (
	hosts   = 3
	subnet  = "10.6.0.0/16"
	network = "foo4"
	// limit bounds the whole demo: on a small machine it takes half a minute.
	limit = 10 * time.Minute
)

// container is one of the demo's containers, each on a host of its own.
type container struct {
	host *lab.Host
	name string
	ip   string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := demo(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		if errors.Is(err, lab.ErrUp) {
			fmt.Fprintln(os.Stderr, "demo: take it away with: make demo-down")
		} else {
			fmt.Fprintln(os.Stderr, "demo: what is up can be looked at with: scripts/lab status; take it away with: make demo-down")
		}
		os.Exit(1)
	}
}

// demo is the story, a chapter a line.
func demo(ctx context.Context) error {
	title("Three hosts, each with Open vSwitch, Consul, Docker and a SocketPlane agent")
	l, err := lab.Up(ctx, lab.Options{Hosts: hosts, Out: os.Stdout})
	if err != nil {
		return err
	}
	title("One network for all of them, made on h1")
	if err := show(ctx, l.Host(1), "socketplane", "network", "create", network, subnet); err != nil {
		return err
	}
	title("A web server named Web on h2, and a container on each of the others")
	containers, err := start(ctx, l)
	if err != nil {
		return err
	}
	title("The page, by Web's address, from the containers and from the hosts")
	if err := fetch(ctx, containers); err != nil {
		return err
	}
	title("Who reaches whom, across hosts")
	failed := matrix(ctx, os.Stdout, containers)
	title("The world outside, through each host's own NAT")
	failed += outside(ctx, os.Stdout, containers)
	title("Tunnels and ports, as h1 sees them")
	for _, args := range [][]string{
		{"socketplane", "agent", "status"},
		{"socketplane", "info"},
		{"ovs-vsctl", "-t", "5", "--columns=name,ofport,options", "find", "Interface", "type=vxlan"},
	} {
		if err := show(ctx, l.Host(1), args...); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of the checks above failed", failed)
	}
	title("Everything was reached. The hosts stay up. Three commands to try:")
	for _, c := range toTry(containers[1]) {
		fmt.Printf("  %s\n      shows: %s\n", c.command, c.shows)
	}
	fmt.Print(`
  scripts/lab exec h1 sh    # a shell on h1
  make demo-down            # take everything away
`)
	return nil
}

// suggestion is a command to try, with a part of what it prints.
type suggestion struct{ command, shows string }

// toTry is what the demo ends with; TestDemo runs it.
func toTry(web container) []suggestion {
	return []suggestion{
		{"scripts/lab exec h3 socketplane run --rm -n " + network + " " + lab.Image + " ping -c 3 " + web.ip, "3 packets transmitted, 3 packets received"},
		{"scripts/lab exec h1 docker run --rm --net " + network + " " + lab.Image + " wget -q -O - http://" + web.ip + "/", "Hello from Web on h2"},
		{"scripts/lab exec h1 socketplane agent status", "Ready:          yes"},
	}
}

// start runs the three containers; each serves a page that says where it is.
func start(ctx context.Context, l *lab.Lab) ([]container, error) {
	containers := []container{
		{host: l.Host(1), name: "c1"},
		{host: l.Host(2), name: "Web"},
		{host: l.Host(3), name: "c3"},
	}
	for i := range containers {
		c := &containers[i]
		page := fmt.Sprintf("mkdir -p /www && echo 'Hello from %s on %s' >/www/index.html && exec httpd -f -p 80 -h /www", c.name, c.host.Name)
		err := show(ctx, c.host, "socketplane", "run", "-n", network, "-d", "--name", c.name, lab.Image, "sh", "-c", page)
		if err != nil {
			return nil, err
		}
		if c.ip, err = address(ctx, *c); err != nil {
			return nil, err
		}
		fmt.Printf("  %s on %s is %s\n", c.name, c.host.Name, c.ip)
	}
	return containers, nil
}

// fetch gets Web's page from the other containers and from their hosts.
func fetch(ctx context.Context, containers []container) error {
	web := containers[1]
	url := "http://" + web.ip + "/"
	for _, c := range []container{containers[0], containers[2]} {
		for _, argv := range [][]string{
			{"docker", "exec", c.name, "timeout", "5", "wget", "-q", "-O", "-", url},
			{"timeout", "5", "busybox", "wget", "-q", "-O", "-", url},
		} {
			if err := retry(ctx, func() error { return show(ctx, c.host, argv...) }); err != nil {
				return err
			}
		}
	}
	return nil
}

// show runs a command on a host and prints both, as a person would see it.
func show(ctx context.Context, h *lab.Host, argv ...string) error {
	var line []string
	for _, a := range argv {
		if strings.ContainsAny(a, " '") {
			a = `"` + a + `"`
		}
		line = append(line, a)
	}
	out, err := h.Exec(ctx, argv...)
	if err != nil {
		return err
	}
	fmt.Printf("  %s$ %s\n", h.Name, strings.Join(line, " "))
	for l := range strings.Lines(out) {
		fmt.Print("  ", l)
	}
	return nil
}

func title(s string) { fmt.Printf("\n\x1b[1m== %s\x1b[0m\n", s) }
