package link

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// nsGetNSType is NS_GET_NSTYPE of linux/nsfs.h: _IO(0xb7, 0x3).
const nsGetNSType = 0xb703

// ownNamespace is the namespace of the calling thread; the agent's threads are
// all in the host's.
const ownNamespace = "/proc/thread-self/ns/net"

// NSID identifies a namespace for as long as something keeps it alive. It is
// comparable. After it died the kernel may give its numbers to another.
type NSID struct {
	Dev, Inode uint64
}

// namespace is an open, verified network namespace.
type namespace struct {
	file *os.File
	id   NSID
}

// NSInode identifies the network namespace at a path.
func NSInode(nsPath string) (NSID, error) {
	ns, err := openNamespace(nsPath)
	if err != nil {
		return NSID{}, err
	}
	defer ns.Close()
	return ns.id, nil
}

// openNamespace opens a path that came from outside, once, and verifies that
// it is a network namespace. All later work goes through the open file: the
// path may mean something else a moment later.
func openNamespace(path string) (*namespace, error) {
	// O_PATH: nothing happens to what the path names (a FIFO would block, a
	// device could act) before it is known to be on nsfs.
	probe, err := os.OpenFile(path, unix.O_PATH, 0)
	for _, wrong := range []error{unix.ENOENT, unix.ENOTDIR, unix.ENAMETOOLONG, unix.ELOOP} {
		if errors.Is(err, wrong) {
			return nil, fmt.Errorf("%q: %w: %w", path, ErrNotNamespace, wrong)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	defer probe.Close()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(probe.Fd()), &fs); err != nil {
		return nil, fmt.Errorf("open network namespace %q: %w", path, err)
	}
	if fs.Type != unix.NSFS_MAGIC {
		return nil, fmt.Errorf("%q: %w", path, ErrNotNamespace)
	}
	// The same file, not the path again.
	file, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", probe.Fd()), os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %q: %w", path, err)
	}
	ns := &namespace{file: file}
	if err := ns.verify(); err != nil {
		ns.Close()
		return nil, fmt.Errorf("%q: %w", path, err)
	}
	return ns, nil
}

func (ns *namespace) verify() error {
	kind, err := unix.IoctlRetInt(ns.fd(), nsGetNSType)
	if err != nil {
		return fmt.Errorf("ask for the kind of namespace: %w", err)
	}
	if kind != unix.CLONE_NEWNET {
		return ErrNotNamespace
	}
	var st unix.Stat_t
	if err := unix.Fstat(ns.fd(), &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	ns.id = NSID{Dev: st.Dev, Inode: st.Ino}
	return nil
}

// openContainer opens the namespace of a container: any but the host's own.
func openContainer(path string) (ns, own *namespace, err error) {
	if ns, err = openNamespace(path); err != nil {
		return nil, nil, err
	}
	if own, err = openNamespace(ownNamespace); err != nil {
		ns.Close()
		return nil, nil, err
	}
	if ns.id == own.id {
		ns.Close()
		own.Close()
		return nil, nil, fmt.Errorf("%q: %w", path, ErrHostNamespace)
	}
	return ns, own, nil
}

func (ns *namespace) fd() int { return int(ns.file.Fd()) }

// dial opens a netlink connection inside.
func (ns *namespace) dial() (*conn, error) { return dial(netns.NsHandle(ns.fd())) }

// Close lets go of the namespace.
func (ns *namespace) Close() { _ = ns.file.Close() }
