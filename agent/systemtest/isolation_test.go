package systemtest

import (
	"fmt"
	"sync"
	"testing"
)

// Promise: containers of one network cannot reach another's, by any address,
// also through the gateway, on the same host and across hosts.
func TestNetworksAreApart(t *testing.T) {
	makeNetwork(t, 1, "red", "10.30.0.0/24")
	makeNetwork(t, 1, "blue", "10.31.0.0/24")
	red1, red2 := runContainer(t, 1, "red", "red1"), runContainer(t, 2, "red", "red2")
	blue1, blue2 := runContainer(t, 1, "blue", "blue1"), runContainer(t, 2, "blue", "blue2")

	// What must work first, so that silence below means isolation.
	eventually(t, "red reaches red", func() error { return red1.pings(t, red2.ip) })
	eventually(t, "blue reaches blue", func() error { return blue1.pings(t, blue2.ip) })

	listen(t, blue1)
	listen(t, blue2)
	for _, to := range []container{blue1, blue2} {
		for _, from := range []container{red1, red2} {
			t.Run(fmt.Sprintf("%s to %s", from.name, to.name), func(t *testing.T) {
				unreachable(t, from, to.ip)
				// As if it were a neighbour: no gateway in between.
				must(t, from.host, "nsenter", "-t", pidOf(t, from), "-n", "ip", "route", "replace", to.ip, "dev", "eth0")
				unreachable(t, from, to.ip)
				must(t, from.host, "nsenter", "-t", pidOf(t, from), "-n", "ip", "route", "del", to.ip)
			})
		}
	}
	t.Run("the other network's gateway", func(t *testing.T) {
		if err := red1.pings(t, "10.31.0.1"); err == nil {
			t.Error("red1 reaches the gateway of blue")
		}
		if err := red1.pings(t, "10.30.0.1", patiently...); err != nil {
			t.Errorf("red1 does not reach its own gateway: %v", err)
		}
	})
	t.Run("with an address of the other network", func(t *testing.T) {
		ns := []string{"nsenter", "-t", pidOf(t, red1), "-n"}
		must(t, 1, append(ns, "ip", "addr", "add", "10.31.0.200/24", "dev", "eth0")...)
		defer must(t, 1, append(ns, "ip", "addr", "del", "10.31.0.200/24", "dev", "eth0")...)
		unreachable(t, red1, blue1.ip)
		unreachable(t, red1, blue2.ip)
	})
}

// listen runs a web server in the container.
func listen(t testing.TB, c container) {
	t.Helper()
	must(t, c.host, "docker", "exec", "-d", c.name, "httpd", "-f", "-p", "80", "-h", "/etc")
	eventually(t, "web server in "+c.name, func() error {
		if r := c.exec(t, "wget", "-q", "-O", "/dev/null", "http://"+c.ip+"/hosts"); r.code != 0 {
			return fmt.Errorf("%s", r.stderr)
		}
		return nil
	})
}

func unreachable(t *testing.T, from container, ip string) {
	t.Helper()
	var ping sync.WaitGroup // both last until they give up
	defer ping.Wait()
	ping.Go(func() {
		if err := from.pings(t, ip); err == nil {
			t.Errorf("%s reaches %s by ping", from.name, ip)
		}
	})
	if r := from.exec(t, "timeout", "1", "wget", "-q", "-O", "/dev/null", "http://"+ip+"/hosts"); r.code == 0 {
		t.Errorf("%s reaches %s by TCP", from.name, ip)
	}
}

// pidOf is the pid, on the host, of the container's first process.
func pidOf(t testing.TB, c container) string {
	t.Helper()
	var pid int
	decode(t, must(t, c.host, "docker", "inspect", "-f", "{{.State.Pid}}", c.name), &pid)
	return fmt.Sprint(pid)
}
