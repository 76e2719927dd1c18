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

// programs are what status looks for in a host, by the kernel's 15 bytes of name.
var programs = []string{"ovsdb-server", "ovs-vswitchd", "consul", "dockerd", "socketplane"}

// Status writes a table of the hosts: first process, address, memory, programs.
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

// usage sums up a host's processes, containers' excepted: memory in bytes (each
// shared page divided among its users) and the programs that run.
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

// pss is a process's proportional set size in bytes, 0 when it cannot be read.
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
