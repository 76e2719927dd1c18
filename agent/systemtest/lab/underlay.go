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
	// Underlay is what `exec` calls the namespace of the wire.
	Underlay = "ul"
	// OutsideHost is what `exec` calls the namespace of the world behind it.
	OutsideHost = "out"
)

// underlayAddr is the address of host k on the underlay.
func underlayAddr(k int) netip.Addr { return netip.AddrFrom4([4]byte{198, 18, 0, byte(k)}) }

// ControlAddr is the address of host k on the control network, by which the
// Consul that a lab is given speaks. It is a wire of its own, as the network for
// management is in many racks, and the kernels' alone: the underlay passes the
// hosts' userspace switches, which wait for the one kernel that all hosts share,
// for seconds when a hundred containers start at once. Consul's servers would
// give up their leader for that, as those on machines of their own would not.
func ControlAddr(k int) netip.Addr { return netip.AddrFrom4([4]byte{198, 18, 1, byte(k)}) }

// ControlLink is a host's interface on the control network; a bare lab has none.
const ControlLink = "ctl0"

func namespaceName(host string) string { return Prefix + "-" + host }

func namespacePath(host string) string {
	return filepath.Join("/run/netns", namespaceName(host))
}

// namespaces lists the network namespaces of the lab that are there.
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

// makeUnderlay makes all network namespaces, the bridge and a veth to each host.
// Checksum offload is off on every end: whoever sends from here sends into a
// userspace switch, which finishes no checksum that was left to hardware. With
// control a second bridge and veth to each host are the control network.
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

	// The wire itself has no address and speaks to nobody.
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

// ipBatch gives iproute2 all lines at once, inside a namespace unless it is "".
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

// unmakeUnderlay deletes all namespaces of the lab; the veths and the bridge go
// with them.
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
		// A crash between making the file and mounting the namespace onto it
		// leaves a plain file, which ip does not delete.
		for _, n := range names {
			_ = exec.CommandContext(ctx, "ip", "netns", "del", n).Run() // tried again; what counts is that the name goes
			if err := os.Remove(filepath.Join("/run/netns", n)); err != nil && !os.IsNotExist(err) {
				return fmt.Errorf("delete namespace %q: %w", n, err)
			}
		}
	}
	return nil
}
