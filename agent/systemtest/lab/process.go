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

// initMark in the environment marks the first process of a host. It is how one
// is found and recognised, whatever became of the files that speak of it.
var initMark = mark()

// processes lists the machine's processes.
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

// initOf says of which host a process is the first: it is number 1 in a pid
// namespace below ours and carries the mark. "" is no host's, or a zombie.
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

// findInit is the first process of a host.
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

// ours lists what Down has to kill: each host's first process, with which all of
// its namespace dies, and whatever else sits in a network namespace of the lab.
// The caller is none of them, though its first thread may rest in one: Go ends no
// first thread, so when a goroutine locked it, went there and ended, it stays.
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

// killAll kills what ours lists until nothing is left. A host's first process
// ends only when the kernel has buried all others of its namespace, so the wait
// is for every process that was killed, not only for what can still be found.
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
			_ = syscall.Kill(pid, syscall.SIGKILL) // gone already is as good
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

// startTime tells a process from a later one of the same number. It is "" for a
// process that is gone or waits for its parent to notice that it is.
func startTime(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// proc(5): the name stands in parentheses and may hold any of them; the
	// state follows it, and the start time is the 22nd field of the line.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return ""
	}
	return fields[19]
}
