package firewall

import (
	"fmt"
	"net/netip"
	"regexp"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Port is a port that the cluster uses.
type Port struct {
	Proto  uint8 // IPPROTO_UDP or IPPROTO_TCP
	Number uint16
}

// VXLAN is the port of tunnels (RFC 7348).
var VXLAN = Port{Proto: unix.IPPROTO_UDP, Number: 4789}

// TunnelMark is the mark (fwmark) of the packets that the kernel's tunnels send, with the
// kernel datapath. Only root can set a mark (SO_MARK in socket(7)). It uses no bit that
// Kubernetes, Calico, Cilium, Tailscale or the CNI plugins use.
const TunnelMark = 0x1050

// Rules is the complete desired state.
type Rules struct {
	// Underlay are the interfaces on which packets to this host's tunnel address arrive.
	Underlay []string
	// Hosts are the tunnel addresses of all hosts of the cluster, including this one. Nil
	// means that they are not known yet. Then only packets from the underlay and from
	// this host reach these ports.
	Hosts []netip.Addr
	// Consul are the ports of the Consul that the agent runs. It is empty if the agent
	// runs none.
	Consul []Port
	// Userspace means that the switch sends and receives tunnel packets itself, so the
	// kernel sends none of its own. Otherwise the kernel's tunnels send them with
	// TunnelMark.
	Userspace bool
	// Marked: the kernel's tunnels do send with TunnelMark. Before an agent has made
	// them do so, the rule that drops packets without the mark would drop the tunnels'
	// own. If it is false, Set adds no such rule, but keeps one that is there.
	Marked bool

	GatewayPrefix  string // prefix of the names of all gateway ports
	EndpointPrefix string // prefix of the names of all endpoints' host ends
}

var namePattern = regexp.MustCompile(`^[^\s/"*]{1,15}$`)

func (r Rules) check() error {
	for _, name := range []string{r.GatewayPrefix, r.EndpointPrefix} {
		if !namePattern.MatchString(name) {
			return fmt.Errorf("%.40q cannot begin an interface's name", name)
		}
	}
	for _, name := range r.Underlay {
		if !namePattern.MatchString(name) {
			return fmt.Errorf("%.40q is no interface's name", name)
		}
	}
	for _, h := range r.Hosts {
		if !h.Is4() {
			return fmt.Errorf("tunnel address %s is not IPv4", h)
		}
	}
	return nil
}

// chain is one chain of the table. It is a base chain if hook is set.
type chain struct {
	name     string
	hook     *nftables.ChainHook
	priority nftables.ChainPriority
	rules    []rule
}

// Priorities of our base chains. They run just before the filter chains of others. The
// chain for endpoints runs before connection tracking, and the last one after
// masquerading.
const (
	beforeFilter = nftables.ChainPriority(-10)
	beforeRaw    = nftables.ChainPriority(-310)
	afterNAT     = nftables.ChainPriority(110)
)

// The chains that judge packets to a port of the cluster.
const (
	arrivingChain  = "arriving"
	forwardedChain = "forwarded"
)

// sendingChain judges what the kernel's tunnels and users of this host send.
const sendingChain = "sending"

// chains renders the rules. Chains that are jump targets come first.
func (r Rules) chains() []chain {
	chains := []chain{
		{name: arrivingChain, rules: r.arriving()},
		{name: "prerouting", hook: nftables.ChainHookPrerouting, priority: beforeRaw, rules: []rule{
			// Only the switch may receive from a container. The netdev chains of package
			// link ensure that too, but they disappear when somebody flushes all rules.
			drop("a container past the switch", from(r.EndpointPrefix+"*")),
		}},
		{name: "input", hook: nftables.ChainHookInput, priority: beforeFilter, rules: r.jumps(arrivingChain)},
		{name: "forward", hook: nftables.ChainHookForward, priority: beforeFilter, rules: r.forward()},
		{name: sendingChain, hook: nftables.ChainHookOutput, priority: beforeRaw, rules: r.sending()},
		{name: "output", hook: nftables.ChainHookOutput, priority: beforeFilter, rules: r.output()},
		{name: "postrouting", hook: nftables.ChainHookPostrouting, priority: afterNAT, rules: r.leaving()},
	}
	if r.Hosts != nil {
		chains = append([]chain{{name: forwardedChain, rules: r.forwarded()}}, chains...)
	}
	return chains
}

func (r Rules) ports() []Port { return append([]Port{VXLAN}, r.Consul...) }

func (r Rules) jumps(to string, more ...matcher) []rule {
	var rules []rule
	for _, p := range r.ports() {
		rules = append(rules, jump(to, append(more, dport(p))...))
	}
	return rules
}

// arriving judges packets to a port of the cluster on this host. A host that is joining
// is not in the list yet, so the whole underlay is accepted. A container arrives on
// another interface, whatever its bridge. It can forge a host's address, so that address
// counts only on an interface by which an answer would leave.
func (r Rules) arriving() []rule {
	rules := []rule{accept("this host", from("lo"))}
	for _, name := range r.Underlay {
		rules = append(rules, accept("the underlay", from(name)))
	}
	if r.Hosts != nil {
		rules = append(rules, accept("a host by another way", sourceIsHost(), cameTheWayBack()))
	}
	return append(rules, drop("a stranger to the cluster's ports"))
}

// forward judges packets that this host forwards. A container's VXLAN packet to another
// host would leave masqueraded, and so pass there as sent by this host.
func (r Rules) forward() []rule {
	rules := []rule{drop("VXLAN of a container", from(r.GatewayPrefix+"*"), dport(VXLAN))}
	if r.Hosts != nil {
		return append(rules, r.jumps(forwardedChain, destinationIsHost())...)
	}
	for _, p := range r.ports() {
		var match []matcher
		for _, name := range r.Underlay {
			match = append(match, notFrom(name))
		}
		rules = append(rules, drop("to a host, before all are known", append(match, dport(p))...))
	}
	return rules
}

// forwarded judges packets that this host forwards to a port of the cluster on another
// host. This host may be a router between hosts, or a bridge with virtual machines
// (br_netfilter). Those keep their own addresses.
func (r Rules) forwarded() []rule {
	var rules []rule
	for _, name := range r.Underlay {
		rules = append(rules, accept("between hosts", from(name), cameTheWayBack()))
	}
	return append(rules,
		accept("a host by another way", sourceIsHost(), cameTheWayBack()),
		drop("a container to a host's ports"))
}

// sending keeps users of this host from sending VXLAN as this host without the kernel's
// tunnels. Packets of the kernel's tunnels pass this chain too, with the user id of the
// inner packet's sender; the mark identifies them. The chain runs before any rules that
// change marks.
func (r Rules) sending() []rule {
	if r.Hosts == nil || r.Userspace || !r.Marked {
		return nil
	}
	return []rule{drop("a user's VXLAN", dport(VXLAN), destinationIsHost(), notRoot(), notMarked(TunnelMark))}
}

// output keeps users of this host other than root from these ports of all hosts. To the
// other hosts they would appear as this host.
func (r Rules) output() []rule {
	if r.Hosts == nil {
		return nil
	}
	ports := r.Consul
	if r.Userspace { // otherwise packets of the kernel's tunnels pass here too: see sending
		ports = r.ports()
	}
	var rules []rule
	for _, p := range ports {
		rules = append(rules, drop("a user to a host's ports", dport(p), destinationIsHost(), notRoot()))
	}
	return rules
}

// leaving judges forwarded packets whose source became an address of this host, whoever
// masquerades them. If such a packet had a port of the cluster as its source port, what a
// host sends to our port would count as the answer and go to a container. Masquerading
// keeps a container's own port, or chooses any. A destination that is no host yet may
// become one. Only gossip uses its own port as source, so the gossip of a container with
// others, such as a Consul in it, is still accepted.
func (r Rules) leaving() []rule {
	var rules []rule
	for _, p := range r.ports() {
		match := []matcher{forwarded(), sourceRewritten(), sport(p)}
		if gossip := p.Proto == unix.IPPROTO_UDP && p != VXLAN; gossip && r.Hosts != nil {
			match = append(match, destinationIsHost())
		}
		rules = append(rules, drop("a container in the name of a port of ours", match...))
	}
	return rules
}
