package machine

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Listen is net.Listen on an address of the yard's, which its machines reach.
func (y *Yard) Listen(ctx context.Context, address string) (net.Listener, error) {
	type answer struct {
		l   net.Listener
		err error
	}
	answers := make(chan answer)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is lost to the other namespace, and ends
		l, err := listenIn(ctx, fmt.Sprintf("/proc/%d/ns/net", y.cmd.Process.Pid), address)
		answers <- answer{l, err}
	}()
	a := <-answers
	return a.l, a.err
}

// listenIn moves the calling thread into a network namespace for good.
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
