package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/wholefile"
)

// maxHosts bounds a container's hosts file, in bytes.
const maxHosts = 1 << 20

// bundleConfig is the part of config.json that nameInHosts uses.
type bundleConfig struct {
	Hostname string `json:"hostname"`
	Mounts   []struct {
		Destination string `json:"destination"`
		Source      string `json:"source"`
	} `json:"mounts"`
}

// nameInHosts writes the container's address and names into its /etc/hosts, as Docker does
// on its own networks. It does not change a hosts file that the user mounted.
func nameInHosts(config, id string, e api.Endpoint) error {
	data, err := wholefile.Read(config, maxConfig)
	if err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	var c bundleConfig
	if err := json.Unmarshal(data, &c); err != nil {
		return fmt.Errorf("bundle's %s: %w", config, err)
	}
	for _, m := range c.Mounts {
		if filepath.Clean(m.Destination) == "/etc/hosts" && isDockersHosts(m.Source, id) {
			return editHosts(m.Source, e.IP, hostNames(c.Hostname, e.ContainerName))
		}
	}
	return nil
}

// isDockersHosts reports whether path is Docker's hosts file of the container:
// <data-root>/containers/<id>/hosts.
func isDockersHosts(path, id string) bool {
	dir := filepath.Dir(path)
	return filepath.IsAbs(path) && filepath.Clean(path) == path && filepath.Base(path) == "hosts" &&
		filepath.Base(dir) == id && filepath.Base(filepath.Dir(dir)) == "containers"
}

// hostNames returns the names for our line. It drops names that are not single words, and
// duplicates.
func hostNames(names ...string) []string {
	var out []string
	for _, n := range names {
		if n != "" && !strings.ContainsFunc(n, func(r rune) bool { return r <= ' ' || r == '#' || r == 0x7f }) && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// editHosts changes the file in place. The file is mounted into the container, which would
// not see a new inode.
func editHosts(path string, ip netip.Addr, names []string) error {
	if len(names) == 0 || !ip.IsValid() {
		return nil
	}
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("container's hosts file: %w", err)
	}
	defer f.Close() //nolint:errcheck // checked below; this is for the failures before
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("container's hosts file: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxHosts {
		return fmt.Errorf("container's hosts file %s is not a regular file of at most %d bytes", path, maxHosts)
	}
	old, err := io.ReadAll(io.LimitReader(f, maxHosts+1))
	if err != nil {
		return fmt.Errorf("container's hosts file: %w", err)
	}
	text := withHost(string(old), ip, names)
	if text == string(old) {
		return nil
	}
	if _, err := f.WriteAt([]byte(text), 0); err != nil {
		return fmt.Errorf("container's hosts file: %w", err)
	}
	if err := errors.Join(f.Truncate(int64(len(text))), f.Close()); err != nil {
		return fmt.Errorf("container's hosts file: %w", err)
	}
	return nil
}

// withHost returns the text of the file with one line for names. It replaces the line that
// an earlier start of the container added.
func withHost(text string, ip netip.Addr, names []string) string {
	ours := ip.String() + "\t" + strings.Join(names, " ")
	var b strings.Builder
	for line := range strings.Lines(text) {
		if isOurLine(line, names) {
			continue
		}
		b.WriteString(line)
		if !strings.HasSuffix(line, "\n") {
			b.WriteByte('\n')
		}
	}
	b.WriteString(ours + "\n")
	return b.String()
}

// isOurLine reports whether a line consists of an IPv4 address that is not loopback, our
// first name, and at most one more name.
func isOurLine(line string, names []string) bool {
	fields := strings.Fields(line)
	if len(fields) < 2 || fields[1] != names[0] {
		return false
	}
	ip, err := netip.ParseAddr(fields[0])
	if err != nil || !ip.Is4() || ip.IsLoopback() {
		return false
	}
	// The second name may be any word, because the container may have been renamed.
	return len(fields) <= 3
}
