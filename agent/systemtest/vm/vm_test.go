//go:build long

// Package vm proves what needs a whole machine with a kernel of its own: the
// kernel's openvswitch carries the packets, and cloud-init finds its data on
// OpenStack's configuration drive. The VMs are emulated (qemu's TCG): nothing here
// says how fast a thing is.
package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// Promise: three VMs that boot with the examples' user-data on a configuration drive
// are a cluster, and nobody has logged in. Their datapath is the kernel's.
func TestVirtualMachines(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Minute)
	defer cancel()
	s := newSite(t, ctx)
	defer s.diagnose()
	started := time.Now()
	for _, n := range []int{3, 2, 1} { // the first host comes last: the others wait
		s.boot(n)
	}
	three, two, one := s.nodes[0], s.nodes[1], s.nodes[2]
	for _, v := range s.nodes {
		v.finished(10 * time.Minute)
	}
	t.Logf("three VMs from nothing to a cluster: %.0f s", time.Since(started).Seconds())

	for _, v := range s.nodes {
		out := v.sh("cloud-init status --long")
		if !strings.Contains(out, "status: done") || !strings.Contains(out, "DataSourceConfigDrive") {
			t.Errorf("%s: %s", v.name, out)
		}
		s.until(time.Minute, v.name+" sees three hosts", func() error {
			out, err := v.try("socketplane cluster members")
			if err == nil && strings.Count(out, " alive ") != 3 {
				err = fmt.Errorf("%s", out)
			}
			return err
		})
	}
	t.Logf("cloud-init status --long\n%s\nsocketplane cluster members\n%s", one.sh("cloud-init status --long"), one.sh("socketplane cluster members"))
	s.reach(one, two, three)
	t.Logf("to the first fetch: %.0f s", time.Since(started).Seconds())
	s.kernel()
	s.walls(one, two)
	s.life(three)
	s.noToken()
}

// reach: a packet as large as the network's MTU arrives whole, and so does a file.
func (s *site) reach(one, two, three *node) {
	s.t.Helper()
	shown := two.sh("socketplane network create web 10.6.0.0/16")
	s.t.Log("\n" + shown)
	if !strings.Contains(shown, "1400") {
		s.t.Errorf("an underlay of %d does not give 1400:\n%s", underlayMTU, shown)
	}
	for _, v := range s.nodes {
		v.sh("docker import /usr/local/share/images/busybox.tar busybox")
	}
	one.sh("socketplane run -n web --ip 10.6.0.10 -d --init --restart always --name server -p 8080:80 busybox httpd -f -p 80 -h /bin")
	for _, v := range []*node{two, three} {
		v.sh("socketplane run -n web -d --init --restart always --name client busybox sleep 100000")
		s.until(time.Minute, v.name+": a packet of 1400 bytes", func() error {
			_, err := v.try("docker exec client ping -c 1 -W 2 -s 1372 10.6.0.10")
			return err
		})
		s.t.Log("\n" + v.sh("docker exec client ping -c 3 10.6.0.10"))
		v.sh(`test "$(docker exec client wget -q -O - http://10.6.0.10/busybox | sha256sum)" = "$(docker exec client cat /bin/busybox | sha256sum)"`)
		// The world beyond the hosts, by this host's address.
		v.sh("docker exec client ping -c 1 -W 5 " + gateway)
	}
	s.inside("curl", "--silent", "--fail", "--max-time", "30", "--output", "/dev/null", "http://"+first+":8080/busybox")
}

// kernel: it is the kernel's openvswitch that does it, on each host, and what is
// there is what is to be there.
func (s *site) kernel() {
	s.t.Helper()
	for _, v := range s.nodes {
		got := v.sh("ovs-vsctl get bridge docker0-ovs datapath_type; ovs-dpctl dump-dps; ls /sys/module | grep -x -e openvswitch -e vxlan")
		if want := "system\nsystem@ovs-system\nopenvswitch\nvxlan"; got != want {
			s.t.Errorf("%s:\n%s\nwant:\n%s", v.name, got, want)
		}
		s.whole(v)
	}
	// 0x2712 is the network's VNI.
	flows := s.nodes[0].sh("docker exec client ping -c 3 10.6.0.10 >/dev/null; ovs-dpctl dump-flows")
	if !strings.Contains(flows, "set(tunnel(tun_id=0x2712") || !strings.Contains(flows, "tunnel(tun_id=0x2712,src=") {
		s.t.Errorf("the kernel's flows do not tunnel:\n%s", flows)
	}
	s.t.Log("\n" + flows)
}

// whole waits until a host is ready, complains of nothing, and has a tunnel to
// each of the two others, and no more.
func (s *site) whole(v *node) {
	s.t.Helper()
	s.until(2*time.Minute, v.name+" is whole", func() error {
		status, err := v.try("socketplane agent status")
		if err == nil && (!strings.Contains(status, "Ready:          yes") || strings.Contains(status, "Problem") || strings.Count(status, " alive ") != 2) {
			err = fmt.Errorf("%s", status)
		}
		if err != nil {
			return err
		}
		tunnels, err := v.try("ovs-vsctl list-ports docker0-ovs | grep -c ^vxlan-; ovs-dpctl show | grep -c vxlan_sys")
		if err == nil && tunnels != "2\n1\n" {
			err = fmt.Errorf("tunnels, and ports of the kernel's for them: %q", tunnels)
		}
		return err
	})
}

// life: packets go on while the agent restarts; a switch that died is mended; a
// host that boots has its containers back.
func (s *site) life(v *node) {
	s.t.Helper()
	pings := v.sh("docker exec client ping -c 12 -W 10 10.6.0.10 >/run/pings & systemctl restart socketplane; wait; tail -n 2 /run/pings")
	if !strings.Contains(pings, "12 packets transmitted, 12 packets received") {
		s.t.Errorf("%s: while the agent restarted:\n%s", v.name, pings)
	}
	reached := func() error {
		_, err := v.try("docker exec client ping -c 1 -W 2 -s 1372 10.6.0.10")
		return err
	}
	v.sh("kill -9 $(pidof ovs-vswitchd)")
	s.until(2*time.Minute, v.name+": a packet after the switch's death", func() error {
		if _, err := v.try("pidof ovs-vswitchd && ovs-ofctl dump-flows docker0-ovs | grep -q table=4"); err != nil {
			return err
		}
		return reached()
	})
	s.whole(v)

	const bootID = "/proc/sys/kernel/random/boot_id"
	before, started := v.sh("cat "+bootID), time.Now()
	_, _ = v.try("systemctl reboot") // it may take the connection with it
	s.until(5*time.Minute, v.name+" boots", func() error {
		now, err := v.try("cat " + bootID)
		if err == nil && strings.TrimSpace(now) == before {
			err = errors.New("it has not gone down")
		}
		return err
	})
	s.until(4*time.Minute, v.name+": a packet after the boot", reached)
	s.t.Logf("from reboot to the first ping of its container: %.0f s", time.Since(started).Seconds())
	for _, v := range s.nodes {
		s.whole(v)
	}
}

// noToken looks for the token in logs, arguments and environments, and on consoles.
func (s *site) noToken() {
	s.t.Helper()
	const look = `grep -rlF -f /etc/socketplane/first.token /var/log /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null || :
journalctl --no-pager | grep -F -f /etc/socketplane/first.token || :`
	for _, v := range s.nodes {
		if found := v.sh(look); found != "" {
			s.t.Errorf("%s: the token is in %s", v.name, found)
		}
		if said, err := os.ReadFile(v.console()); err != nil || strings.Contains(string(said), s.token) {
			s.t.Errorf("%s: its console shows the token, or: %v", v.name, err)
		}
	}
}
