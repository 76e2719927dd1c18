package cluster

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// listening gives what a process listens on: TCP and UDP as in /proc/net, for
// IPv4 and IPv6.
func listening(t *testing.T, pid int) []string {
	t.Helper()
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil || len(fds) == 0 {
		t.Fatalf("descriptors of %d: %v, %v", pid, fds, err)
	}
	inodes := map[string]bool{}
	for _, fd := range fds {
		name, err := os.Readlink(fd)
		if inode, ok := strings.CutPrefix(name, "socket:["); ok && err == nil {
			inodes[strings.TrimSuffix(inode, "]")] = true
		}
	}
	var all []string
	for _, protocol := range []string{"tcp", "tcp6", "udp", "udp6"} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/net/%s", pid, protocol))
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(f)
		lines.Scan() // the heading
		for lines.Scan() {
			// proc(5): sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
			field := strings.Fields(lines.Text())
			// 0A: TCP_LISTEN; 07: a UDP socket with no peer.
			if want := map[bool]string{true: "0A", false: "07"}[protocol[0] == 't']; len(field) > 9 && inodes[field[9]] && field[3] == want {
				all = append(all, protocol+" "+procAddr(t, field[1]))
			}
		}
		f.Close()
	}
	slices.Sort(all)
	return all
}

// procAddr reads an address as /proc/net writes it: IPv4 as one word of the
// machine's byte order, which is little-endian wherever this runs.
func procAddr(t *testing.T, text string) string {
	t.Helper()
	host, port, _ := strings.Cut(text, ":")
	number, err := strconv.ParseUint(port, 16, 16)
	raw, hexErr := hex.DecodeString(host)
	if err != nil || hexErr != nil || len(raw) != 4 {
		return text // IPv6: no such listener is wanted
	}
	slices.Reverse(raw)
	addr, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr, uint16(number)).String()
}

// Our Consul opens the ports that hosts need of each other, on the host's own
// address, and nothing else: a new listener of a later Consul fails here.
func TestConsulListens(t *testing.T) {
	opts := options(t)
	opts.Bind = netip.MustParseAddr("127.0.0.2")
	p := began(t, opts)
	rpc, gossip := fmt.Sprintf("127.0.0.2:%d", opts.Ports.Server), fmt.Sprintf("127.0.0.2:%d", opts.Ports.Gossip)
	want := []string{"tcp " + gossip, "tcp " + rpc, "udp " + gossip}
	slices.Sort(want)
	if have := listening(t, p.proc.Pid); !slices.Equal(have, want) {
		t.Errorf("it listens on\n%q, want\n%q", have, want)
	}
}

// Another user of the host can neither use Consul nor see what lies beside its
// socket.
func TestConsulIsClosedToOthers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("only root can try it as another user")
	}
	opts := options(t)
	// The directories above can be entered, so that it is Consul's that keeps others out.
	state := filepath.Dir(opts.Dir)
	for _, dir := range []string{filepath.Dir(state), state} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	began(t, opts)
	try := func(uid uint32, argv ...string) (string, error) {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, argv := range [][]string{
		{"stat", opts.socket()},
		{"stat", opts.configPath()},
		{"stat", filepath.Join(opts.Dir, "data")},
		{"ls", opts.Dir},
		{"curl", "-sS", "-f", "-m", "30", "--unix-socket", opts.socket(), "http://consul/v1/status/leader"},
	} {
		if out, err := try(0, argv...); err != nil {
			t.Errorf("root: %q: %v\n%s", argv, err, out)
		}
		out, err := try(65534, argv...)
		if err == nil || argv[0] != "curl" && !strings.Contains(out, "Permission denied") {
			t.Errorf("user 65534: %q: %v\n%s", argv, err, out)
		}
	}
	if out, err := try(65534, "stat", state+"/."); err != nil {
		t.Errorf("user 65534 does not come to %s, so this test proves nothing: %s", state, out)
	}
}
