package systemtest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// namespace is the path of the container's network namespace on the machine.
func (c container) namespace(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("/proc/%d/root/proc/%s/ns/net", cluster.Host(c.host).Pid(), pidOf(t, c))
}

// underlayNamespace is where the wire between the hosts is.
var underlayNamespace = "/run/netns/" + lab.Prefix + "-" + lab.Underlay

// inNamespace runs f on a thread that is in the network namespace at path. The
// sockets that f opens belong to it for good. The thread goes back: Down kills
// every process that is in a namespace of the lab.
func inNamespace(path string, f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(home) //nolint:errcheck // read only
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd) //nolint:errcheck // read only
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter %s: %w", path, err)
	}
	err = f()
	if back := unix.Setns(home, unix.CLONE_NEWNET); back != nil {
		panic(fmt.Sprintf("a thread is lost in %s: %v", path, back)) // anything may happen on it
	}
	return err
}

// frame is one that passed an interface.
type frame struct {
	data   []byte
	tagged bool // 802.1Q: in the frame, or taken out of it by the kernel
	sent   bool // by this end, rather than received
}

// wire hears and speaks at one interface, as tcpdump does: by an AF_PACKET
// socket that takes everything.
type wire struct {
	name string
	fd   int
	stop chan struct{}
	done sync.WaitGroup

	mu     sync.Mutex
	frames []frame
}

// hearing is how often a reader looks whether it should end.
const hearing = 100 * time.Millisecond

// tapOf taps an interface of a namespace until the test ends.
func tapOf(t testing.TB, name, namespace, ifname string) *wire {
	t.Helper()
	w := &wire{name: name, stop: make(chan struct{})}
	err := inNamespace(namespace, func() (err error) {
		w.fd, err = packetSocket(ifname)
		return err
	})
	if err != nil {
		t.Fatalf("tap %s: %v", name, err)
	}
	w.done.Go(w.read)
	t.Cleanup(func() {
		close(w.stop)
		w.done.Wait()
		_ = unix.Close(w.fd)
	})
	return w
}

// tapContainer taps a container's eth0.
func tapContainer(t testing.TB, c container) *wire {
	t.Helper()
	return tapOf(t, c.name, c.namespace(t), "eth0")
}

func packetSocket(ifname string) (int, error) {
	link, err := net.InterfaceByName(ifname)
	if err != nil {
		return 0, fmt.Errorf("interface %q: %w", ifname, err)
	}
	all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL)) // network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)            // deaf until bound
	if err != nil {
		return 0, err
	}
	timeout := unix.NsecToTimeval(hearing.Nanoseconds())
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP,
			&unix.PacketMreq{Ifindex: int32(link.Index), Type: unix.PACKET_MR_PROMISC}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index}),
	)
	if err != nil {
		_ = unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

func (w *wire) read() {
	buf, oob := make([]byte, 1<<16), make([]byte, 256)
	for {
		n, oobn, _, from, err := unix.Recvmsg(w.fd, buf, oob, 0)
		select {
		case <-w.stop:
			return
		default:
		}
		if err != nil {
			continue // the time is over, or the interface is down
		}
		link, ok := from.(*unix.SockaddrLinklayer)
		if !ok {
			continue
		}
		f := frame{data: bytes.Clone(buf[:n]), sent: link.Pkttype == unix.PACKET_OUTGOING, tagged: hadTag(oob[:oobn])}
		f.tagged = f.tagged || isTag(f.data)
		w.mu.Lock()
		w.frames = append(w.frames, f)
		w.mu.Unlock()
	}
}

// hadTag says whether the kernel took an 802.1Q tag out of a frame (packet(7)).
func hadTag(oob []byte) bool {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return false
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 4 {
			status := binary.NativeEndian.Uint32(m.Data[unsafe.Offsetof(unix.TpacketAuxdata{}.Status):])
			if status&unix.TP_STATUS_VLAN_VALID != 0 {
				return true
			}
		}
	}
	return false
}

// isTag says whether the frame itself holds an 802.1Q or 802.1ad tag.
func isTag(data []byte) bool {
	return len(data) >= 14 && (etherType(data) == unix.ETH_P_8021Q || etherType(data) == unix.ETH_P_8021AD)
}

func etherType(data []byte) uint16 { return binary.BigEndian.Uint16(data[12:]) }

// send puts frames onto the interface as they are.
func (w *wire) send(t testing.TB, frames ...[]byte) {
	t.Helper()
	for _, f := range frames {
		if _, err := unix.Write(w.fd, f); err != nil {
			t.Fatalf("send at %s: %v", w.name, err)
		}
	}
}

// all is what passed so far.
func (w *wire) all() []frame {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.frames)
}

// heard counts the frames that came in and hold a mark.
func (w *wire) heard(mark string) int {
	n := 0
	for _, f := range w.all() {
		if !f.sent && bytes.Contains(f.data, []byte(mark)) {
			n++
		}
	}
	return n
}

// await waits until the mark has been heard.
func (w *wire) await(t testing.TB, mark string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%q at %s", mark, w.name), func() error {
		if w.heard(mark) == 0 {
			return errors.New("not heard")
		}
		return nil
	})
}

// vxlan is a VXLAN packet as it passes the underlay (RFC 7348).
type vxlan struct {
	src, dst netip.Addr
	vni      uint32
	inner    frame
}

// vxlanPort is the port that IANA gave VXLAN.
const vxlanPort = 4789

// encapsulated reads a frame of the underlay, false when it is no VXLAN packet.
func encapsulated(f frame) (vxlan, bool) {
	const headers = 14 + 20 + 8 + 8
	d := f.data
	if len(d) < headers+14 || etherType(d) != unix.ETH_P_IP || d[14] != 0x45 || d[23] != unix.IPPROTO_UDP {
		return vxlan{}, false
	}
	if binary.BigEndian.Uint16(d[36:]) != vxlanPort {
		return vxlan{}, false
	}
	v := vxlan{
		src: netip.AddrFrom4([4]byte(d[26:30])), dst: netip.AddrFrom4([4]byte(d[30:34])),
		vni:   binary.BigEndian.Uint32(d[46:]) >> 8,
		inner: frame{data: d[headers:], tagged: isTag(d[headers:])},
	}
	return v, true
}

// vxlans are the VXLAN packets of a network that passed so far.
func (w *wire) vxlans(vni uint32) []vxlan {
	var list []vxlan
	for _, f := range w.all() {
		if v, ok := encapsulated(f); ok && v.vni == vni {
			v.inner.tagged = v.inner.tagged || f.tagged
			list = append(list, v)
		}
	}
	return list
}

// vniOf asks for the network's id on the wire.
func vniOf(t testing.TB, k int, network string) uint32 {
	t.Helper()
	var n struct {
		VNI uint32 `json:"vni"`
	}
	decode(t, sp(t, k, "network", "info", network, "-o", "json"), &n)
	if n.VNI == 0 {
		t.Fatalf("network %q has no VNI", network)
	}
	return n.VNI
}
