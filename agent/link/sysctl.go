package link

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// socketBuffer is the size, in bytes, that an AF_PACKET socket of a userspace switch
// needs to lose nothing in a burst. The kernel's default is 208 KiB.
const socketBuffer = 8 << 20

// PrepareHost enables IPv4 forwarding, which every network needs. For a userspace switch
// it also raises the default socket buffer, which the switch uses when it opens a port.
// It writes only values that differ.
func (l *Links) PrepareHost(userspace bool) error {
	if err := setSysctl("net/ipv4/ip_forward", "1"); err != nil {
		return fmt.Errorf("prepare host: %w", err)
	}
	if !userspace {
		return nil
	}
	const buffer = "net/core/rmem_default"
	raw, err := os.ReadFile("/proc/sys/" + buffer)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // not in the initial namespace: the file belongs to the machine
	}
	if err != nil {
		return fmt.Errorf("prepare host: %w", err)
	}
	if now, err := strconv.Atoi(string(bytes.TrimSpace(raw))); err == nil && now >= socketBuffer {
		return nil
	}
	err = setSysctl(buffer, strconv.Itoa(socketBuffer))
	if err != nil && !errors.Is(err, fs.ErrPermission) { // newer kernels show it read-only in other namespaces
		return fmt.Errorf("prepare host: %w", err)
	}
	return nil
}

// setSysctl writes a value under /proc/sys if it differs. Callers have checked interface
// names in the path: they contain no '/'.
func setSysctl(name, value string) error {
	path := "/proc/sys/" + name
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read sysctl %s: %w", name, err)
	}
	if strings.TrimSpace(string(raw)) == value {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("set sysctl %s to %s: %w", name, value, err)
	}
	_, err = f.WriteString(value)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("set sysctl %s to %s: %w", name, value, err)
	}
	return nil
}

// disableIPv6 turns off IPv6 on a link of the current namespace. It succeeds on a kernel
// without IPv6.
func disableIPv6(name string) error {
	err := setSysctl("net/ipv6/conf/"+name+"/disable_ipv6", "1")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// linkExists reports whether the host has an interface of that name.
func linkExists(name string) bool {
	_, err := os.Stat("/proc/sys/net/ipv4/conf/" + name)
	return err == nil
}
