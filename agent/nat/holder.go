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

// holderTime limits the search. Any user of the host can have hundreds of thousands of
// files and processes, and the result only appears in an error text.
const holderTime = 500 * time.Millisecond

// holder returns the process that holds a port of this host, for an error text. It
// returns 0 if the process is unknown or the kernel holds the port.
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
			if err != nil || bad != nil { // the process has just ended
				continue
			}
			return n, strings.TrimSpace(string(comm))
		}
	}
	return 0, ""
}

// numbersIn iterates over the numeric names in a directory until a deadline. It reads the
// directory in chunks.
func numbersIn(dir string, deadline time.Time) iter.Seq[string] {
	return func(yield func(string) bool) {
		d, err := os.Open(dir)
		if err != nil {
			return // the process has just ended
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

// socketOn returns the inode of a socket that blocks a port, from the kernel's tables
// (proc(5), /proc/net/tcp), or "" if there is none.
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

// listening is TCP_LISTEN in the format of the tables.
const listening = "0A"

// parseLocal parses an address of the kernel's tables: words of four bytes in the
// machine's byte order, and a port, in hex. All machines that we build for are
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
