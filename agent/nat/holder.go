package nat

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// holder finds the process that has a port of this host, for an error's sentence.
// 0: it is not known, or it is the kernel.
func holder(p Port) (pid int, program string) {
	inode := socketOn(p)
	if inode == "" {
		return 0, ""
	}
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return 0, ""
	}
	for _, link := range links {
		if to, err := os.Readlink(link); err != nil || to != "socket:["+inode+"]" {
			continue
		}
		text := strings.Split(link, "/")[2]
		if pid, err = strconv.Atoi(text); err != nil {
			continue
		}
		comm, err := os.ReadFile(filepath.Join("/proc", text, "comm"))
		if err != nil { // it has just ended
			continue
		}
		return pid, strings.TrimSpace(string(comm))
	}
	return 0, ""
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
