package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
)

// BootID names the present boot of this machine: the same for every agent that
// runs on it until it is turned off, and another on a machine whose disk was
// copied from this one. A container or a namespace that stands for a machine
// shares its kernel with others, so its first process and its network count too.
func BootID() (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	stat, statErr := os.ReadFile("/proc/1/stat")
	// The thread's, since the process's is that of its first thread, which link
	// may have sent into a container for a moment.
	netns, nsErr := os.Readlink("/proc/thread-self/ns/net")
	if err := errors.Join(err, statErr, nsErr); err != nil {
		return "", fmt.Errorf("tell this boot of the machine from others: %w", err)
	}
	// proc(5): the command's name, in parentheses, may hold anything; the start
	// time is field 22, the 20th behind it.
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return "", errors.New("tell this boot of the machine from others: /proc/1/stat is too short")
	}
	sum := sha256.Sum256([]byte(strings.TrimSpace(string(boot)) + " " + fields[19] + " " + netns))
	return hex.EncodeToString(sum[:8]), nil
}
