package lab

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// programs are the programs that Status looks for in a host, by the kernel's name of up to
// 15 bytes.
var programs = []string{"ovsdb-server", "ovs-vswitchd", "consul", "dockerd", "socketplane"}

// Status prints a table of the hosts: first process, address, memory, programs.
func (l *Lab) Status(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "HOST\tPID\tADDRESS\tMEMORY\tRUNS")
	pids, err := processes()
	if err != nil {
		return err
	}
	for _, h := range l.hosts {
		init := h.Pid()
		if init == 0 {
			fmt.Fprintf(table, "%s\t-\t%s\t-\toff\n", h.Name, h.Addr)
			continue
		}
		memory, runs := h.usage(init, pids)
		fmt.Fprintf(table, "%s\t%d\t%s\t%d MB\t%s\n", h.Name, init, h.Addr, memory>>20, strings.Join(runs, " "))
	}
	return table.Flush()
}

// usage returns the memory of a host's processes, in bytes, and its running programs. It
// divides each shared page among its users, and does not count the processes of
// containers.
func (h *Host) usage(init int, pids []int) (memory int64, runs []string) {
	space, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", init))
	if err != nil {
		return 0, nil
	}
	found := map[string]bool{}
	for _, pid := range pids {
		if s, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid)); err != nil || s != space {
			continue
		}
		memory += pss(pid)
		if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil {
			found[strings.TrimSpace(string(comm))] = true
		}
	}
	for _, p := range programs {
		if found[p] {
			runs = append(runs, p)
		}
	}
	return memory, slices.Clip(runs)
}

// pss returns the proportional set size of a process in bytes, or 0 if it cannot be read.
func pss(pid int) int64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "Pss:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 64)
			if err != nil {
				return 0
			}
			return kb << 10
		}
	}
	return 0
}
