package upgrade

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

const (
	subnet  = "10.180.0.0/24"
	outside = "203.0.113.1"
)

// Promise: two hosts of the first release are upgraded one by one as docs/upgrade.md
// says, and one is taken back as it says. Restarts of the agents lose no ping between
// containers of old and new hosts, nor to the outside. At each step, either kind of host
// makes and deletes networks and endpoints that the other kind reaches, status is clean
// on all hosts, and no agent leaves a stored value alone.
func TestUpgrade(t *testing.T) {
	page := readPage(t)
	hosts := hostsOfTheFirst(t, 2)
	u := begin(t, hosts)
	for _, title := range []string{"The first host", "The other hosts", "Back to the older release"} {
		if len(page[title]) == 0 {
			t.Fatalf("docs/upgrade.md has no commands below %q", title)
		}
		u.strictly(title, func() { u.typed(page[title]) })
		u.live(title)
	}
	u.end()
}

// begin starts containers that live through the whole test, one a host.
func begin(t *testing.T, hosts []*host) *upgrade {
	t.Helper()
	u := &upgrade{t: t, hosts: hosts}
	hosts[0].sp("network", "create", "web", subnet)
	for _, h := range hosts {
		u.containers = append(u.containers, h.run("web", "web-"+h.Name))
	}
	u.live("the first release")
	return u
}

// upgrade is a test under way.
type upgrade struct {
	t          *testing.T
	hosts      []*host
	containers []container
	networks   int // made so far
}

// pings begins them between all containers, and to the outside.
func (u *upgrade) pings() []*pinger {
	u.t.Helper()
	var all []*pinger
	for _, h := range u.hosts {
		h.awaitQuiet()
	}
	namespaces := make([]string, len(u.containers))
	for i, c := range u.containers {
		c.reaches(u.containers[(i+1)%len(u.containers)].ip)
		c.reaches(outside)
		namespaces[i] = c.namespace()
	}
	for i, c := range u.containers {
		next, namespace := u.containers[(i+1)%len(u.containers)], namespaces[i]
		all = append(all,
			ping(u.t, c.host.Name+" to "+next.host.Name, namespace, next.ip),
			ping(u.t, c.host.Name+" to the outside", namespace, outside))
	}
	all[0].awaitSent(u.t, 20)
	return all
}

// strictly does something beside pings of which none may be lost, and waits until all
// hosts are well.
func (u *upgrade) strictly(what string, f func()) {
	u.t.Helper()
	pingers := u.pings()
	sent, _ := pingers[0].counts()
	f()
	now, _ := pingers[0].counts()
	u.t.Logf("%s: between pings %d and %d", what, sent, now)
	for _, h := range u.hosts {
		h.awaitWell(len(u.hosts) - 1)
	}
	sent, _ = pingers[0].counts()
	pingers[0].awaitSent(u.t, sent+50) // what a started agent does late counts as well
	lostNothing(u.t, what, pingers)
}

// live has every host make a network that every host uses and another one deletes, and
// an endpoint on the network of the containers, beside pings.
func (u *upgrade) live(what string) {
	u.t.Helper()
	pingers := u.pings()
	for i, h := range u.hosts {
		u.networks++
		name := fmt.Sprintf("net%d", u.networks)
		h.sp("network", "create", name, fmt.Sprintf("10.181.%d.0/24", u.networks))
		u.connected(name)
		u.deleted(u.hosts[(i+1)%len(u.hosts)], name)
		one := h.run("web", "short")
		for _, c := range u.containers {
			c.reaches(one.ip)
			one.reaches(c.ip)
		}
		h.sp("rm", "-f", "short")
	}
	lostLittle(u.t, what, pingers)
	for _, h := range u.hosts {
		h.awaitWell(len(u.hosts) - 1)
		h.readsAll()
	}
}

// connected attaches a namespace on each host to a network; all reach each other.
func (u *upgrade) connected(network string) {
	u.t.Helper()
	ips := map[*host]string{}
	for _, h := range u.hosts {
		h.must("ip", "netns", "add", "guest")
		eventually(u.t, h.Name+" knows the network", func() error {
			if r := h.try("", "socketplane", "connect", "-n", network, "--netns", "/run/netns/guest", "--id", "guest"); r.code != 0 {
				return errors.New(r.stderr)
			}
			return nil
		})
		ips[h] = h.ip("guest")
	}
	for _, h := range u.hosts {
		for other, ip := range ips {
			eventually(u.t, h.Name+" reaches "+other.Name, func() error {
				if r := h.try("", "ip", "netns", "exec", "guest", "ping", "-c", "1", "-W", "1", ip); r.code != 0 {
					return errors.New(r.stdout + r.stderr)
				}
				return nil
			})
		}
	}
	for _, h := range u.hosts {
		h.sp("disconnect", "guest")
		h.must("ip", "netns", "del", "guest")
	}
}

// deleted has a host delete a network as soon as nobody is on it; then no host has it.
func (u *upgrade) deleted(by *host, network string) {
	u.t.Helper()
	eventually(u.t, by.Name+" deletes "+network, func() error {
		if r := by.try("", "socketplane", "network", "delete", network); r.code != 0 {
			return errors.New(r.stderr)
		}
		return nil
	})
	for _, h := range u.hosts {
		eventually(u.t, h.Name+" hears of it", func() error {
			if out := h.sp("network", "list"); strings.Contains(out, network+" ") {
				return errors.New(out)
			}
			return nil
		})
	}
}

// typed types commands of the page. What the page shows must come, once the cluster has
// settled: such a command only reads.
func (u *upgrade) typed(steps []step) {
	u.t.Helper()
	for _, s := range steps {
		var h *host
		for _, one := range u.hosts {
			if one.Name == s.host {
				h = one
			}
		}
		if h == nil {
			u.t.Fatalf("docs/upgrade.md:%d: there is no %s", s.line, s.host)
		}
		u.t.Logf("%s# %s", s.host, s.command)
		if len(s.shown) == 0 {
			h.must("sh", "-c", s.command)
			continue
		}
		eventually(u.t, fmt.Sprintf("docs/upgrade.md:%d: %s shows what the page says", s.line, s.command), func() error {
			r := h.try("", "sh", "-c", s.command)
			got := strings.Split(strings.TrimSpace(r.stdout), "\n")
			same := r.code == 0 && len(got) == len(s.shown)
			for i := range s.shown {
				same = same && plain(got[i]) == plain(s.shown[i])
			}
			if !same {
				return errors.New(r.stdout + r.stderr)
			}
			return nil
		})
	}
}

// end removes all, and looks whether the store kept nothing of it.
func (u *upgrade) end() {
	u.t.Helper()
	for _, c := range u.containers {
		c.host.sp("rm", "-f", c.name)
	}
	u.deleted(u.hosts[0], "web")
	for _, h := range u.hosts {
		h.awaitWell(len(u.hosts) - 1)
		h.readsAll()
	}
}
