package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	// Underlay is the name of the underlay's namespace in `exec`.
	Underlay = "ul"
	// OutsideHost is the name of the outside world's namespace in `exec`.
	OutsideHost = "out"
)

// underlayAddr returns the address of host k on the underlay.
func underlayAddr(k int) netip.Addr { return netip.AddrFrom4([4]byte{198, 18, 0, byte(k)}) }

// ControlAddr returns the address of host k on the control network, which carries the
// traffic of a given Consul. The control network is separate, like the management network
// in many racks, and only the kernel forwards its packets. The underlay passes through the
// hosts' userspace switches. These wait for seconds for the one kernel that all hosts
// share if a hundred containers start at once. On the underlay, Consul's servers would
// lose their leader for that reason, which servers on separate machines would not.
func ControlAddr(k int) netip.Addr { return netip.AddrFrom4([4]byte{198, 18, 1, byte(k)}) }

// ControlLink is a host's interface on the control network. A bare lab has none.
const ControlLink = "ctl0"

func namespaceName(host string) string { return Prefix + "-" + host }

func namespacePath(host string) string {
	return filepath.Join("/run/netns", namespaceName(host))
}

// namespaces returns the names of the lab's existing network namespaces.
func namespaces() ([]string, error) {
	paths, err := filepath.Glob("/run/netns/" + Prefix + "-*")
	if err != nil {
		return nil, err
	}
	for i, p := range paths {
		paths[i] = filepath.Base(p)
	}
	return paths, nil
}

// makeUnderlay creates all network namespaces, the bridge, and a veth pair to each host.
// It turns off checksum offload on every end, because the receiver is a userspace switch,
// which does not complete checksums that were left to hardware. With control it also
// creates the control network: a second bridge and veth pair to each host.
func makeUnderlay(ctx context.Context, hosts []*Host, control bool) error {
	var make, wire strings.Builder
	fmt.Fprintf(&make, "netns add %s\nnetns add %s\n", namespaceName(Underlay), namespaceName(OutsideHost))
	wire.WriteString("link set lo up\nlink add br0 type bridge forward_delay 0 mcast_snooping 0\nlink set br0 up\n")
	ends := []string{OutsideHost}
	fmt.Fprintf(&make, "link add wan0 netns %s type veth peer name %s netns %s\n",
		namespaceName(OutsideHost), OutsideHost, namespaceName(Underlay))
	for _, h := range hosts {
		fmt.Fprintf(&make, "netns add %s\n", namespaceName(h.Name))
		fmt.Fprintf(&make, "link add ul0 netns %s type veth peer name %s netns %s\n",
			namespaceName(h.Name), h.Name, namespaceName(Underlay))
		ends = append(ends, h.Name)
		if control {
			fmt.Fprintf(&make, "link add %s netns %s type veth peer name %sc netns %s\n",
				ControlLink, namespaceName(h.Name), h.Name, namespaceName(Underlay))
		}
	}
	if err := ipBatch(ctx, "", make.String()); err != nil {
		return err
	}

	// The underlay's namespace has no address and sends nothing.
	if err := inNamespace(ctx, Underlay, "sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6 || :"); err != nil {
		return err
	}
	for _, end := range ends {
		fmt.Fprintf(&wire, "link set %s master br0 up\n", end)
	}
	if control {
		wire.WriteString("link add br1 type bridge forward_delay 0 mcast_snooping 0\nlink set br1 up\n")
		for _, h := range hosts {
			fmt.Fprintf(&wire, "link set %sc master br1 up\n", h.Name)
		}
	}
	if err := ipBatch(ctx, namespaceName(Underlay), wire.String()); err != nil {
		return err
	}
	offload := append([]string{"sh", "-c", `for d; do ethtool -K "$d" tx off >/dev/null || exit 1; done`, "sh", "br0"}, ends...)
	if err := inNamespace(ctx, Underlay, offload...); err != nil {
		return err
	}

	err := inNamespace(ctx, OutsideHost, "sh", "-c",
		"ethtool -K wan0 tx off >/dev/null; echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6 || :")
	if err != nil {
		return err
	}
	return ipBatch(ctx, namespaceName(OutsideHost), fmt.Sprintf(
		"link set lo up\naddr add %s/32 dev lo\naddr add 198.18.0.254/24 dev wan0\nlink set wan0 up\n", Outside))
}

// ipBatch passes lines to one run of iproute2, inside a namespace unless that is "".
func ipBatch(ctx context.Context, namespace, lines string) error {
	args := []string{"-batch", "-"}
	if namespace != "" {
		args = append([]string{"-n", namespace}, args...)
	}
	cmd := exec.CommandContext(ctx, "ip", args...)
	cmd.Stdin = strings.NewReader(lines)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// inNamespace runs a command in the network namespace of ul, out or a host.
func inNamespace(ctx context.Context, host string, args ...string) error {
	_, err := run(exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + namespacePath(host), "--"}, args...)...))
	return err
}

// unmakeUnderlay deletes all namespaces of the lab, and with them the veths and the
// bridges.
func unmakeUnderlay(ctx context.Context) error {
	names, err := namespaces()
	if err != nil || len(names) == 0 {
		return err
	}
	var lines strings.Builder
	for _, n := range names {
		fmt.Fprintf(&lines, "netns del %s\n", n)
	}
	if err := ipBatch(ctx, "", lines.String()); err != nil {
		// If a crash happens after the file is created and before the namespace is mounted
		// on it, a plain file remains, which ip does not delete.
		for _, n := range names {
			_ = exec.CommandContext(ctx, "ip", "netns", "del", n).Run() // may fail; only the removal of the name below counts
			if err := os.Remove(filepath.Join("/run/netns", n)); err != nil && !os.IsNotExist(err) {
				return fmt.Errorf("delete namespace %q: %w", n, err)
			}
		}
	}
	return nil
}
