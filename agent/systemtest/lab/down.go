package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Down removes everything that a lab created: processes, namespaces, cgroups and files. It
// also restores the changed kernel setting. It works after an incomplete Up, and does
// nothing if there is no lab. It removes StateDir last, so that an interrupted Down can be
// repeated.
func Down(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("the lab needs root: run it with sudo")
	}
	// First, because processes use everything else.
	if err := killAll(ctx); err != nil {
		return err
	}
	err := errors.Join(
		unmakeUnderlay(ctx),
		removeCgroups(ctx),
		restoreMachine(),
	)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(StateDir); err != nil {
		return fmt.Errorf("remove the lab's files: %w", err)
	}
	return nil
}

// restoreMachine undoes builder.machine as recorded in the manifest. It does nothing if
// another lab is up.
func restoreMachine() error {
	m, err := loadManifest()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if neighbour() != nil {
		return nil
	}
	err = os.WriteFile(rmemDefault, []byte(m.Rmem), 0o644)
	for _, d := range m.Created {
		// Keep a directory that someone else uses now.
		if e := os.Remove(d); e != nil && !errors.Is(e, fs.ErrNotExist) && !notEmpty(d) {
			err = errors.Join(err, e)
		}
	}
	return err
}

func notEmpty(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && len(entries) > 0
}

// removeCgroups removes the hosts' cgroups from every hierarchy. It retries, because the
// kernel allows the removal only shortly after the last process has ended.
func removeCgroups(ctx context.Context) error {
	mounts, err := cgroupMounts()
	if err != nil {
		return err
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for _, m := range mounts {
		top := filepath.Join(m, Prefix)
		for {
			err := removeCgroup(top)
			if err == nil {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("remove cgroup: %w", err)
			case <-tick.C:
			}
		}
	}
	return nil
}

// removeCgroup removes a cgroup and those below it. The kernel removes the files in it.
func removeCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroup(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// cgroupMounts returns the mount points of all cgroup hierarchies, version 1 and 2.
func cgroupMounts() ([]string, error) {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var mounts []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) > 2 && (fields[2] == "cgroup" || fields[2] == "cgroup2") {
			mounts = append(mounts, fields[1])
		}
	}
	return mounts, lines.Err()
}
