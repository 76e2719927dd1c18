package link

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Inhabited reports whether a process runs in the network namespace of a host end's peer.
// A namespace can outlive its container when somebody has mounted its file. Inhabited
// returns false if the host end does not exist. It returns true if the peer is still in
// the host's namespace, where the host's processes run.
func (l *Links) Inhabited(host string) (bool, error) {
	c, err := l.acquire()
	if err != nil {
		return false, err
	}
	defer l.release(c)
	end, err := c.byName(host)
	if err != nil || end == nil {
		return false, err
	}
	want := end.Attrs().NetNsID
	if want < 0 {
		return true, nil
	}
	paths, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return false, fmt.Errorf("list processes: %w", err)
	}
	seen := map[NSID]bool{}
	for _, path := range paths {
		var st unix.Stat_t
		if unix.Stat(path, &st) != nil { // the process has ended
			continue
		}
		id := NSID{Dev: st.Dev, Inode: st.Ino}
		if seen[id] {
			continue
		}
		seen[id] = true
		file, err := os.Open(path)
		if err != nil {
			continue
		}
		nsid, err := c.GetNetNsIdByFd(int(file.Fd()))
		file.Close()
		if err == nil && nsid == want {
			return true, nil
		}
	}
	return false, nil
}
