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

// seen is what an interface has inside its namespace.
type seen struct {
	mac       string
	up        bool
	addrs     []netip.Prefix
	isDefault bool // an IPv4 default route goes out by it
}

// look reads an interface inside a namespace, and changes nothing. The agent
// owns all changes; CHECK must be able to tell when its word and the kernel's
// differ.
func look(netns, ifName string) (seen, error) {
	type answer struct {
		seen seen
		err  error
	}
	done := make(chan answer)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread, which is elsewhere now, ends with the goroutine
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

// enter takes the thread into a network namespace. The kernel refuses what is
// none (EINVAL); O_NONBLOCK since the path may be a FIFO's.
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

// hasDefault reads the thread's table of IPv4 routes (proc(5), net/route):
// name, destination, gateway, flags, and the mask as the eighth, in hex.
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

// there says whether a namespace has an interface of this name. What cannot be
// looked at has none: the agent says what is wrong with a namespace.
func there(netns, ifName string) bool {
	_, err := look(netns, ifName)
	return err == nil
}

// otherMAC is the error for an interface whose MAC address was changed after
// ADD. The switch drops its packets.
func otherMAC(who, ifName, has, want string) error {
	return failf(codeDiffers, "%sinterface %q has MAC address %s, its endpoint has %s, so its packets are dropped; "+
		"set a MAC address by the capability \"mac\" of %s or MAC= in CNI_ARGS, not by another plugin such as tuning", who, ifName, has, want, Name)
}

// same says what the kernel has that is not as the agent has it.
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
