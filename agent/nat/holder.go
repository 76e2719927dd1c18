package nat

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// holderTime bounds the search: any user of the host can have files and processes by
// the hundred thousand, and the answer is for a sentence only.
const holderTime = 500 * time.Millisecond

// holder finds the process that has a port of this host, for an error's sentence.
// 0: it is not known, or it is the kernel.
func holder(p Port) (pid int, program string) {
	inode := socketOn(p)
	if inode == "" {
		return 0, ""
	}
	deadline := time.Now().Add(holderTime)
	for pid := range numbersIn("/proc", deadline) {
		proc := filepath.Join("/proc", pid)
		for fd := range numbersIn(filepath.Join(proc, "fd"), deadline) {
			if to, err := os.Readlink(filepath.Join(proc, "fd", fd)); err != nil || to != "socket:["+inode+"]" {
				continue
			}
			comm, err := os.ReadFile(filepath.Join(proc, "comm"))
			n, bad := strconv.Atoi(pid)
			if err != nil || bad != nil { // it has just ended
				continue
			}
			return n, strings.TrimSpace(string(comm))
		}
	}
	return 0, ""
}

// numbersIn gives the names in a directory that are numbers, a few at a time, until a
// deadline.
func numbersIn(dir string, deadline time.Time) iter.Seq[string] {
	return func(yield func(string) bool) {
		d, err := os.Open(dir)
		if err != nil {
			return // it has just ended
		}
		defer d.Close() //nolint:errcheck // only read from
		for {
			names, err := d.Readdirnames(256)
			for _, name := range names {
				if time.Now().After(deadline) {
					return
				}
				if name[0] >= '0' && name[0] <= '9' && !yield(name) {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
}

// socketOn gives the inode of a socket that keeps others off a port, as the kernel's
// tables have it (proc(5), /proc/net/tcp); empty: there is none.
func socketOn(p Port) string {
	for _, family := range []string{"", "6"} {
		f, err := os.Open("/proc/thread-self/net/" + p.Proto + family)
		if err != nil {
			continue
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			// sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
			fields := strings.Fields(lines.Text())
			if len(fields) < 10 || fields[9] == "0" || p.Proto == "tcp" && fields[3] != listening {
				continue
			}
			at, err := parseLocal(fields[1])
			if err == nil && at.Port() == p.HostPort && (at.Addr().IsUnspecified() || p.hostIP().IsUnspecified() || at.Addr() == p.hostIP()) {
				_ = f.Close() // only read from
				return fields[9]
			}
		}
		_ = f.Close() // only read from
	}
	return ""
}

// listening is TCP_LISTEN as the tables write it.
const listening = "0A"

// parseLocal reads an address of the kernel's tables: words of four bytes in the
// machine's order, and a port, in hex. The machines that we are built for are
// little-endian.
func parseLocal(s string) (netip.AddrPort, error) {
	address, port, ok := strings.Cut(s, ":")
	raw, err := hex.DecodeString(address)
	if !ok || err != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, fmt.Errorf("address %q is not one of /proc/net", s)
	}
	for i := 0; i < len(raw); i += 4 {
		slices.Reverse(raw[i : i+4])
	}
	addr, ok := netip.AddrFromSlice(raw)
	n, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil {
		return netip.AddrPort{}, fmt.Errorf("address %q is not one of /proc/net", s)
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), nil
}
