package systemtest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// Promise: a container that asks for one that is just being started on another host is
// told as soon as its host knows it, and does not wait until it asks again. Containers
// of a network where nobody asked are told nothing.
func TestNewcomerIsAnnounced(t *testing.T) {
	makeNetwork(t, 1, "newcomer", "10.198.0.0/24")
	makeNetwork(t, 1, "nobodyasks", "10.199.0.0/24")
	asker := runContainer(t, 1, "newcomer", "nc-asker")
	silent := runContainer(t, 1, "nobodyasks", "nc-silent")
	const late, other = "10.198.0.77", "10.199.0.77"
	told := func(w *wire, ip string) bool {
		addr := netip.MustParseAddr(ip)
		for _, f := range w.all() {
			d := f.data
			if !f.sent && len(d) >= 42 && etherType(d) == unix.ETH_P_ARP && binary.BigEndian.Uint16(d[20:]) == arpReply &&
				bytes.Equal(d[:6], everybody.mac) && bytes.Equal(d[28:32], addr.AsSlice()) {
				return true
			}
		}
		return false
	}
	ear, apart := tapContainer(t, asker), tapContainer(t, silent)
	must(t, 1, "docker", "exec", "-d", asker.name, "ping", "-i", "0.5", late)
	eventually(t, "somebody asks", func() error {
		for _, f := range ear.all() {
			if f.sent && etherType(f.data) == unix.ETH_P_ARP {
				return nil
			}
		}
		return errors.New("no question yet")
	})
	quiet := runContainer(t, 2, "nobodyasks", "nc-quiet", "--ip", other)
	runContainer(t, 2, "newcomer", "nc-late", "--ip", late)
	eventually(t, "the answer comes unasked", func() error {
		if !told(ear, late) {
			return errors.New("only answers to questions")
		}
		return nil
	})
	eventually(t, "the quiet one is reached", func() error { return silent.pings(t, quiet.ip) })
	if told(apart, other) {
		t.Error("a network where nobody asked was told")
	}
}
