package link

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Ioctl requests of linux/nsfs.h, each _IO(0xb7, N).
const (
	nsGetUserNS   = 0xb701
	nsGetNSType   = 0xb703
	nsGetOwnerUID = 0xb704
)

// ownNamespace is the namespace of the calling thread. All threads of the agent are in
// the host's namespace.
const ownNamespace = "/proc/thread-self/ns/net"

// NSID identifies a namespace while something keeps it alive. It is comparable. Once the
// namespace is gone, the kernel may reuse its numbers.
type NSID struct {
	Dev, Inode uint64
}

// namespace is an open file that is verified to be a network namespace.
type namespace struct {
	file *os.File
	id   NSID
}

// NSInode returns the identity of the network namespace at a path.
func NSInode(nsPath string) (NSID, error) {
	ns, err := openNamespace(nsPath)
	if err != nil {
		return NSID{}, err
	}
	defer ns.Close()
	return ns.id, nil
}

// openNamespace opens a path that came from outside, once, and verifies that it is a
// network namespace. Callers then use only the open file, because the path can change its
// meaning at any time.
func openNamespace(path string) (*namespace, error) {
	// O_PATH has no side effects before the file is known to be on nsfs: opening a FIFO
	// would block, and opening a device could trigger it.
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
	// Reopen the same file; the path may already name another one.
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

// openContainer opens the namespace of a container and the host's own. It fails with
// ErrHostNamespace if both are the same.
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

// OwnedBy opens the network namespace at a path for a user who is not root. It fails with
// ErrNotOwner unless the user created the user namespace that owns it. held is a path
// that names this namespace until release, even if path changes its meaning.
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

// owner returns the uid that created the user namespace that owns this namespace.
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

// dial opens a netlink connection in the namespace.
func (ns *namespace) dial() (*conn, error) { return dial(netns.NsHandle(ns.fd())) }

// Close closes the namespace file.
func (ns *namespace) Close() { _ = ns.file.Close() }
