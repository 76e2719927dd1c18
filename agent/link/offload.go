package link

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ethtoolValue is struct ethtool_value of linux/ethtool.h.
type ethtoolValue struct {
	cmd  uint32
	data uint32
}

// ifreqData is struct ifreq of linux/if.h with its ifr_data member. The kernel reads 40
// bytes of it on 64-bit machines.
type ifreqData struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [16]byte
}

// disableTxChecksum makes the kernel complete the checksums of the packets that a link
// sends. The link is in ns, or in the current namespace if ns is nil. A veth or tap
// claims to do this in hardware and leaves it to the forwarder. A userspace switch does
// not do it, so every TCP segment would arrive with a bad checksum. The kernel also turns
// off what depends on it (TSO, SCTP's CRC).
func disableTxChecksum(ns, own *namespace, name string) error {
	fd, err := controlSocket(ns, own)
	if err != nil {
		return fmt.Errorf("turn off tx offload of %q: %w", name, err)
	}
	defer unix.Close(fd)
	on := ethtoolValue{cmd: unix.ETHTOOL_GTXCSUM}
	if err := ethtool(fd, name, &on); err != nil {
		return fmt.Errorf("read tx offload of %q: %w", name, err)
	}
	if on.data == 0 {
		return nil
	}
	if err := ethtool(fd, name, &ethtoolValue{cmd: unix.ETHTOOL_STXCSUM}); err != nil {
		return fmt.Errorf("turn off tx offload of %q: %w", name, err)
	}
	return nil
}

// controlSocket opens a socket for ioctls in ns, or in the current namespace if ns is
// nil.
func controlSocket(ns, own *namespace) (int, error) {
	open := func() (int, error) { return unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) }
	if ns == nil {
		return open()
	}
	type result struct {
		fd  int
		err error
	}
	opened := make(chan result, 1)
	go func() {
		// A thread that cannot return to its own namespace must not run other goroutines.
		// It stays locked, so the runtime ends it with this goroutine.
		runtime.LockOSThread()
		if err := unix.Setns(ns.fd(), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			opened <- result{err: fmt.Errorf("enter the namespace: %w", err)}
			return
		}
		fd, err := open()
		if unix.Setns(own.fd(), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		opened <- result{fd, err}
	}()
	r := <-opened
	return r.fd, r.err
}

func ethtool(fd int, name string, value *ethtoolValue) error {
	req := ifreqData{data: unsafe.Pointer(value)}
	copy(req.name[:unix.IFNAMSIZ-1], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	if errno != 0 {
		return errno
	}
	return nil
}
