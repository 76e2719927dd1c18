package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// initMark is the environment variable that marks the first process of a host. It
// identifies the process independently of any files.
var initMark = mark()

// processes returns the pids of all processes on the machine.
func processes() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// initOf returns the host whose first process pid is. Such a process is number 1 in a pid
// namespace below ours and has the mark. initOf returns "" for other processes and for
// zombies.
func initOf(pid int) string {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return ""
	}
	_, after, found := bytes.Cut(status, []byte("\nNSpid:"))
	if !found {
		return ""
	}
	line, _, _ := bytes.Cut(after, []byte("\n"))
	if numbers := strings.Fields(string(line)); len(numbers) < 2 || numbers[len(numbers)-1] != "1" {
		return ""
	}
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return ""
	}
	for entry := range bytes.SplitSeq(environ, []byte{0}) {
		if host, ok := strings.CutPrefix(string(entry), initMark); ok {
			return host
		}
	}
	return ""
}

// findInit returns the pid of a host's first process.
func findInit(host string) (int, error) {
	pids, err := processes()
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		if initOf(pid) == host {
			return pid, nil
		}
	}
	if _, err := loadManifest(); errors.Is(err, os.ErrNotExist) {
		return 0, ErrDown
	}
	return 0, fmt.Errorf("host %q is not there or is off; scripts/lab status shows the hosts", host)
}

// ours returns the processes that Down must kill: each host's first process, whose end
// kills its whole pid namespace, and all other processes in a network namespace of the
// lab. It excludes the caller, whose first thread may still be in such a namespace: Go
// never ends that thread, even if a goroutine locked it, moved it there and ended.
func ours() ([]int, error) {
	names, err := namespaces()
	if err != nil {
		return nil, err
	}
	inodes := map[uint64]bool{}
	for _, n := range names {
		var st syscall.Stat_t
		if err := syscall.Stat(filepath.Join("/run/netns", n), &st); err == nil {
			inodes[st.Ino] = true
		}
	}
	pids, err := processes()
	if err != nil {
		return nil, err
	}
	var found []int
	for _, pid := range pids {
		if pid == os.Getpid() {
			continue
		}
		if initOf(pid) != "" {
			found = append(found, pid)
			continue
		}
		var st syscall.Stat_t
		if err := syscall.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &st); err == nil && inodes[st.Ino] {
			found = append(found, pid)
		}
	}
	return found, nil
}

// killAll kills the processes that ours returns until none is left. A host's first process
// ends only after the kernel has cleaned up all others of its namespace. So killAll waits
// for every process that it has killed, not only for those that ours still finds.
func killAll(ctx context.Context) error {
	dying := map[int]string{} // pid -> start time
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		pids, err := ours()
		if err != nil {
			return err
		}
		for _, pid := range pids {
			if start := startTime(pid); start != "" {
				dying[pid] = start
			}
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone already
		}
		for pid, start := range dying {
			if startTime(pid) != start {
				delete(dying, pid)
			}
		}
		if len(pids) == 0 && len(dying) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes %v do not die: %w", slices.Collect(maps.Keys(dying)), ctx.Err())
		case <-tick.C:
		}
	}
}

// startTime returns the start time of a process, which distinguishes it from a later one
// with the same pid. It returns "" for a process that is gone or a zombie.
func startTime(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// See proc(5): the name is in parentheses and may contain parentheses itself. The
	// state follows it, and the start time is the 22nd field of the line.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return ""
	}
	return fields[19]
}
