//go:build long

package vm

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"
)

// walls: with the kernel's datapath a host speaks with containers of other hosts,
// whoever the user is and by whichever address, and nobody but the switch sends VXLAN.
// from has the server; to has a client on the network "web".
func (s *site) walls(from, to *node) {
	s.t.Helper()
	const fetch = "curl --silent --show-error --fail --max-time 10 --output /dev/null http://"
	inside := to.sh("docker exec client ip -4 -o addr show dev eth0")
	client := regexp.MustCompile(`inet ([0-9.]+)`).FindStringSubmatch(inside)
	if client == nil {
		s.t.Fatalf("%s: the client's address: %q", to.name, inside)
	}
	for who, script := range map[string]string{
		"root of a host to a container's own address":        fetch + "10.6.0.10/busybox",
		"another user to it, by a tunnel with his uid":       "runuser -u nobody -- " + fetch + "10.6.0.10/busybox",
		"a user to a published port":                         "runuser -u nobody -- " + fetch + from.address + ":8080/busybox",
		"a container to another host's published port":       "docker exec client wget -q -O /dev/null -T 10 http://" + from.address + ":8080/busybox",
		"both at once, by the same two addresses (learning)": "p=; for i in 1 2 3; do " + fetch + "10.6.0.10/busybox & p=\"$p $!\"; " + fetch + from.address + ":8080/busybox & p=\"$p $!\"; done; for q in $p; do wait $q; done",
	} {
		s.until(time.Minute, who, func() error {
			_, err := to.try(script)
			return err
		})
	}
	if flows := to.sh("runuser -u nobody -- " + fetch + "10.6.0.10/busybox; ovs-dpctl dump-flows"); !strings.Contains(flows, "skb_mark(0x1050)") {
		s.t.Errorf("the kernel's flows set no mark:\n%s", flows)
	}

	// A datagram that looks like a packet of from's tunnel, for the client.
	packet := base64.StdEncoding.EncodeToString(append(binary.BigEndian.AppendUint32([]byte{0x08, 0, 0, 0}, 0x2712<<8), smuggled(client[1], "smuggled")...)) // RFC 7348
	from.sh("echo " + packet + " | base64 -d >/run/packet; chmod 644 /run/packet; docker run -d --name bridged busybox sleep 100000; docker cp /run/packet bridged:/packet; docker cp /run/packet server:/packet")
	send := "bash -c 'cat /run/packet >/dev/udp/" + to.address + "/4789'"
	heard := func() (n int) { // nobody in the client listens on the port, and its kernel counts that
		s.t.Helper()
		out := to.sh("docker exec client cat /proc/net/snmp")
		for line := range strings.Lines(out) {
			if _, err := fmt.Sscanf(line, "Udp: %d %d", new(int), &n); err == nil {
				return n
			}
		}
		s.t.Fatalf("no count of UDP:\n%s", out)
		return 0
	}
	before := heard()
	s.until(time.Minute, "root's VXLAN is heard, without which the rest shows nothing", func() error {
		from.sh(send)
		if heard() == before {
			return errors.New("silence")
		}
		return nil
	})
	netcat := " sh -c 'timeout 2 nc -u -w 1 " + to.address + " 4789 </packet || :'"
	for who, script := range map[string]string{
		"a user of a host":                        "runuser -u nobody -- " + send + " || :",
		"a container on Docker's bridge":          "docker exec bridged" + netcat,
		"a container on a network of the cluster": "docker exec server" + netcat,
	} {
		before, roots := heard(), 0
		from.sh("for i in 1 2 3; do " + script + "; done")
		s.until(time.Minute, "root's VXLAN, after "+who+" sent his", func() error {
			from.sh(send)
			if roots++; heard() == before {
				return errors.New("silence")
			}
			return nil
		})
		if got := heard() - before; got > roots {
			s.t.Errorf("%s speaks VXLAN as %s: %d datagrams arrived, and root sent %d", who, from.name, got, roots)
		}
	}
	mark := `runuser -u nobody -- perl -MSocket -e 'socket(S,PF_INET,SOCK_DGRAM,0); print setsockopt(S,SOL_SOCKET,36,pack("L",0x1050)) ? "marked" : $!'` // SO_MARK
	if said := from.sh(mark); said != "Operation not permitted" {
		s.t.Errorf("a user sets the mark of the tunnels: %s", said)
	}
	rules := from.sh("nft list table ip socketplane")
	for _, what := range []string{"a user's VXLAN", "VXLAN of a container", "a container to a host's ports"} {
		if !counted(rules, what) {
			s.t.Errorf("%q was not counted:\n%s", what, rules)
		}
	}
	from.sh("docker rm -f bridged >/dev/null")
	s.t.Log("\n" + rules)
}

// counted says whether a rule has dropped a packet.
func counted(rules, about string) bool {
	for line := range strings.Lines(rules) {
		if strings.Contains(line, `comment "`+about) && !strings.Contains(line, "counter packets 0 ") {
			return true
		}
	}
	return false
}

// smuggled is an Ethernet frame with a datagram to port 7777 of an endpoint, from
// an address that nobody has.
func smuggled(ip, text string) []byte {
	to := netip.MustParseAddr(ip).As4()
	udp := append([]byte{0x1e, 0x61, 0x1e, 0x61, 0, byte(8 + len(text)), 0, 0}, text...) // ports 7777, no checksum (RFC 768)
	header := []byte{0x45, 0, 0, byte(20 + len(udp)), 0, 1, 0, 0, 64, 17, 0, 0, to[0], to[1], 0, 250, to[0], to[1], to[2], to[3]}
	var sum uint32
	for i := 0; i < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(header[10:], ^uint16(sum)) // RFC 1071
	frame := fmt.Appendf(nil, "\x02\x42%s\x02\x42%s\x08\x00", string(to[:]), string([]byte{to[0], to[1], 0, 250}))
	return append(append(frame, header...), udp...)
}
