package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
)

// BootID identifies the current boot of this machine. All agents that run on it until it
// shuts down get the same ID; a machine whose disk was copied from this one gets another.
// A container or namespace that stands for a machine shares its kernel with others, so
// the ID also depends on its first process and its network namespace.
func BootID() (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	stat, statErr := os.ReadFile("/proc/1/stat")
	// The link of the process shows its first thread, which package link may have moved
	// into a container's namespace for a moment. The link of this thread is right.
	netns, nsErr := os.Readlink("/proc/thread-self/ns/net")
	if err := errors.Join(err, statErr, nsErr); err != nil {
		return "", fmt.Errorf("tell this boot of the machine from others: %w", err)
	}
	// See proc(5): the command name, in parentheses, may contain any character. The
	// start time is field 22, the 20th after the name.
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return "", errors.New("tell this boot of the machine from others: /proc/1/stat is too short")
	}
	sum := sha256.Sum256([]byte(strings.TrimSpace(string(boot)) + " " + fields[19] + " " + netns))
	return hex.EncodeToString(sum[:8]), nil
}
