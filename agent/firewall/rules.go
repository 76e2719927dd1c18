package firewall

import (
	"fmt"
	"net/netip"
	"regexp"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Port is a port that carries the cluster.
type Port struct {
	Proto  uint8 // IPPROTO_UDP or IPPROTO_TCP
	Number uint16
}

// VXLAN is where tunnels end (RFC 7348).
var VXLAN = Port{Proto: unix.IPPROTO_UDP, Number: 4789}

// TunnelMark is the mark (fwmark) of what the kernel's tunnels send, with the kernel
// datapath. Only root can set a mark on a packet (SO_MARK in socket(7)). It uses no
// bit that Kubernetes, Calico, Cilium, Tailscale or the CNI plugins give a meaning.
const TunnelMark = 0x1050

// Rules is the whole desired state.
type Rules struct {
	// Underlay are the interfaces by which packets to this host's tunnel address come.
	Underlay []string
	// Hosts are the tunnel addresses of all hosts of the cluster, this one's too.
	// Nil: they are not known yet. Then what does not come from the underlay
	// reaches these ports nowhere.
	Hosts []netip.Addr
	// Consul are the ports of the Consul that the agent runs, empty when it
	// runs none.
	Consul []Port
	// Userspace: the switch sends and receives tunnel packets by itself, so the
	// kernel has none of its own to send. Otherwise the kernel's tunnels send
	// them with TunnelMark.
	Userspace bool
	// Marked: the kernel's tunnels do send with TunnelMark. Before an agent has made
	// them do so, the rule that drops packets without the mark would drop the tunnels'
	// own. If it is false, Set adds no such rule, but keeps one that is there.
	Marked bool

	GatewayPrefix  string // of the names of all gateway ports
	EndpointPrefix string // of the names of the host's ends of all endpoints
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

// chain is one chain of the table: a base chain where hook is set.
type chain struct {
	name     string
	hook     *nftables.ChainHook
	priority nftables.ChainPriority
	rules    []rule
}

// Our base chains come just before those that others use to filter; the one for
// endpoints comes before connection tracking, the last one after masquerading.
const (
	beforeFilter = nftables.ChainPriority(-10)
	beforeRaw    = nftables.ChainPriority(-310)
	afterNAT     = nftables.ChainPriority(110)
)

// The chains that judge a packet to a port of the cluster.
const (
	arrivingChain  = "arriving"
	forwardedChain = "forwarded"
)

// sendingChain judges what the kernel's tunnels and users of this host send.
const sendingChain = "sending"

// chains renders the rules. Chains that are jumped to come first.
func (r Rules) chains() []chain {
	chains := []chain{
		{name: arrivingChain, rules: r.arriving()},
		{name: "prerouting", hook: nftables.ChainHookPrerouting, priority: beforeRaw, rules: []rule{
			// The switch alone hears a container. The netdev chains of package
			// link say so too; they go when somebody flushes all rules.
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

// arriving judges what comes to a port of the cluster on this host. Who joins is
// in no list yet, so the whole underlay may. A container, on whatever bridge,
// comes from somewhere else. It can write a host's address on its packets, so
// that counts only together with the way they came.
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

// forward judges what passes this host. A container that sends VXLAN to another
// host would speak there for this host, since it leaves masqueraded.
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

// forwarded judges what is on its way to a port of the cluster on another host.
// This host may be a router between hosts, or a bridge that virtual machines are
// on (br_netfilter): those keep their own address.
func (r Rules) forwarded() []rule {
	var rules []rule
	for _, name := range r.Underlay {
		rules = append(rules, accept("between hosts", from(name), cameTheWayBack()))
	}
	return append(rules,
		accept("a host by another way", sourceIsHost(), cameTheWayBack()),
		drop("a container to a host's ports"))
}

// sending keeps the users of this host from sending VXLAN as this host past the
// kernel's own tunnels. Those send from here too, with the user id of whoever sent the
// packet inside; the mark tells them. It comes before anybody's rules that change marks.
func (r Rules) sending() []rule {
	if r.Hosts == nil || r.Userspace || !r.Marked {
		return nil
	}
	return []rule{drop("a user's VXLAN", dport(VXLAN), destinationIsHost(), notRoot(), notMarked(TunnelMark))}
}

// output keeps the users of this host, root apart, from these ports of all hosts:
// to the others they would speak as this host.
func (r Rules) output() []rule {
	if r.Hosts == nil {
		return nil
	}
	ports := r.Consul
	if r.Userspace { // else the kernel's tunnels send from here too: see sending
		ports = r.ports()
	}
	var rules []rule
	for _, p := range ports {
		rules = append(rules, drop("a user to a host's ports", dport(p), destinationIsHost(), notRoot()))
	}
	return rules
}

// leaving judges what was forwarded and got an address of this host as its source,
// whoever masquerades. Had it a port of the cluster as its source port too, what a
// host sends to that port of ours would count as the answer, and go to a container.
// Masquerading keeps a container's own port, or chooses any. Who is no host yet may
// become one. Only gossip speaks from its own port, so a container's own gossip with
// others, such as a Consul in it, goes on.
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
