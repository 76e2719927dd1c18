package link

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Requests of linux/nsfs.h, each _IO(0xb7, N).
const (
	nsGetUserNS   = 0xb701
	nsGetNSType   = 0xb703
	nsGetOwnerUID = 0xb704
)

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

// OwnedBy opens the network namespace at a path for a user who is not root, and makes
// sure that it is his: that he made the user namespace that it belongs to. held is
// another path to the same namespace, whatever path comes to mean, until release.
func (l *Links) OwnedBy(path string, uid uint32) (held string, release func(), err error) {
	ns, err := openNamespace(path)
	if err != nil {
		return "", nil, err
	}
	owner, err := ns.owner()
	if err == nil && owner != uid {
		err = fmt.Errorf("%q is of uid %d: %w", path, owner, ErrNotOwner)
	}
	if err != nil {
		ns.Close()
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d", ns.fd()), ns.Close, nil
}

// owner gives the user who made the user namespace that a namespace belongs to.
func (ns *namespace) owner() (uint32, error) {
	fd, err := unix.IoctlRetInt(ns.fd(), nsGetUserNS)
	if err != nil {
		return 0, fmt.Errorf("ask for the user namespace: %w", err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	uid, err := unix.IoctlGetUint32(fd, nsGetOwnerUID)
	if err != nil {
		return 0, fmt.Errorf("ask for the owner: %w", err)
	}
	return uid, nil
}

func (ns *namespace) fd() int { return int(ns.file.Fd()) }

// dial opens a netlink connection inside.
func (ns *namespace) dial() (*conn, error) { return dial(netns.NsHandle(ns.fd())) }

// Close lets go of the namespace.
func (ns *namespace) Close() { _ = ns.file.Close() }
