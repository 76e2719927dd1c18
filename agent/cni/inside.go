package cni

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// seen is the state of an interface inside its namespace.
type seen struct {
	mac       string
	up        bool
	addrs     []netip.Prefix
	isDefault bool // an IPv4 default route uses it
}

// look reads the state of an interface inside a namespace. It reads the kernel itself,
// instead of asking the agent, so that CHECK can detect differences between the two. It
// changes nothing, because only the agent makes changes.
func look(netns, ifName string) (seen, error) {
	type answer struct {
		seen seen
		err  error
	}
	done := make(chan answer)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is in another namespace and ends with the goroutine
		s, err := lookInside(netns, ifName)
		done <- answer{s, err}
	}()
	a := <-done
	if a.err != nil {
		return seen{}, failf(codeDiffers, "interface %q in %s: %v", ifName, shown(netns), a.err)
	}
	return a.seen, nil
}

func lookInside(netns, ifName string) (seen, error) {
	if err := enter(netns); err != nil {
		return seen{}, err
	}
	iface, err := net.InterfaceByName(ifName)
	if err != nil {
		return seen{}, err
	}
	addrs, err := iface.Addrs()
	if err != nil {
		return seen{}, err
	}
	s := seen{mac: iface.HardwareAddr.String(), up: iface.Flags&net.FlagUp != 0}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			s.addrs = append(s.addrs, p)
		}
	}
	s.isDefault, err = hasDefault(ifName)
	return s, err
}

// enter moves the thread into a network namespace. The kernel returns EINVAL if the path
// is not a namespace. O_NONBLOCK is set because the path may be a FIFO.
func enter(netns string) error {
	fd, err := unix.Open(netns, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open the network namespace: %w", err)
	}
	defer unix.Close(fd) //nolint:errcheck // only read from
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the network namespace: %w", err)
	}
	return nil
}

// hasDefault reports whether the thread's IPv4 routes (proc(5), net/route) include a
// default route through ifName. The first fields are name, destination, gateway and flags;
// the eighth is the mask. All numbers are in hex.
func hasDefault(ifName string) (bool, error) {
	f, err := os.Open("/proc/thread-self/net/route")
	if err != nil {
		return false, err
	}
	defer f.Close() //nolint:errcheck // only read from
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		w := strings.Fields(lines.Text())
		if len(w) >= 8 && w[0] == ifName && w[1] == "00000000" && w[7] == "00000000" {
			return true, nil
		}
	}
	return false, lines.Err()
}

// there reports whether a namespace has an interface of this name. It returns false if the
// namespace is unreadable, because the agent reports that error.
func there(netns, ifName string) bool {
	_, err := look(netns, ifName)
	return err == nil
}

// otherMAC returns the error for an interface whose MAC address was changed after ADD. The
// switch drops its packets.
func otherMAC(who, ifName, has, want string) error {
	return failf(codeDiffers, "%sinterface %q has MAC address %s, its endpoint has %s, so its packets are dropped; "+
		"set a MAC address by the capability \"mac\" of %s or MAC= in CNI_ARGS, not by another plugin such as tuning", who, ifName, has, want, Name)
}

// same returns an error if the kernel's state differs from the agent's.
func (s seen) same(ifName, mac string, addr netip.Prefix) error {
	if !s.up {
		return failf(codeDiffers, "interface %q is down", ifName)
	}
	if s.mac != mac {
		return otherMAC("", ifName, s.mac, mac)
	}
	for _, a := range s.addrs {
		if a == addr {
			return nil
		}
	}
	return failf(codeDiffers, "interface %q lacks the address %s of its endpoint", ifName, addr)
}
