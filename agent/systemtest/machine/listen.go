package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Listen is net.Listen on an address of the yard's, which its machines reach.
func (y *Yard) Listen(ctx context.Context, address string) (net.Listener, error) {
	return ListenBeside(ctx, y.cmd.Process.Pid, address)
}

// ListenBeside is net.Listen on an address of the network that a process sees.
//
// The thread comes back and lives on: with it would die what it started, which
// dockerd is to do with the test only (prctl(2), PR_SET_PDEATHSIG, means the thread).
func ListenBeside(ctx context.Context, pid int, address string) (net.Listener, error) {
	runtime.LockOSThread()
	ours, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer ours.Close() //nolint:errcheck // only a handle
	l, err := listenIn(ctx, fmt.Sprintf("/proc/%d/ns/net", pid), address)
	if back := unix.Setns(int(ours.Fd()), unix.CLONE_NEWNET); back != nil {
		// Still locked: no other goroutine ever runs in the wrong namespace.
		return nil, errors.Join(err, fmt.Errorf("come back from the namespace of process %d: %w", pid, back))
	}
	runtime.UnlockOSThread()
	return l, err
}

// listenIn moves the calling thread into a network namespace, and listens there.
func listenIn(ctx context.Context, namespace, address string) (net.Listener, error) {
	f, err := os.Open(namespace)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only a handle
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("enter %s: %w", namespace, err)
	}
	return new(net.ListenConfig).Listen(ctx, "tcp", address)
}
