package nat

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/socketplane/socketplane/agent/metadata"
)

// The chains we own. Every jump to one comes first in its chain. Docker puts its
// own jump to DOCKER-USER before ours in FORWARD when it starts; so DOCKER-USER,
// which Docker leaves to others, jumps to ours as well.
const (
	forwardChain     = "SOCKETPLANE-FORWARD"
	inputChain       = "SOCKETPLANE-INPUT"
	postroutingChain = "SOCKETPLANE-POSTROUTING"
	portsChain       = "SOCKETPLANE-PORTS"
	rawChain         = "SOCKETPLANE-RAW"
	outputChain      = "SOCKETPLANE-OUTPUT"

	dockerUserChain = "DOCKER-USER"
)

// DefaultGatewayPrefix is what the names of gateway ports begin with.
const DefaultGatewayPrefix = "spg"

// Network is a network that this host uses.
type Network struct {
	Subnet      netip.Prefix // IPv4
	GatewayPort string       // interface of its gateway on this host
	Metadata    bool         // its containers reach the cloud's metadata
}

// Published is a port of the host that leads to an endpoint.
type Published struct {
	Port
	To netip.AddrPort // the endpoint's address, and its port
}

// Rules is the whole desired state.
type Rules struct {
	Networks      []Network
	Published     []Published
	GatewayPrefix string // of all gateway ports; empty: DefaultGatewayPrefix
	// Uplinks are the interfaces by which containers leave the host.
	Uplinks []string
	// DenyForward makes DROP the policy of FORWARD. It is for a host that forwards
	// only since the agent has it forward, as Docker does on such a host. False
	// leaves the policy alone.
	DenyForward bool
	// Bridges are those of Docker's whose packet filter is in nftables, with DenyForward.
	// There Docker drops what it does not publish, but cannot accept what the policy of
	// FORWARD drops.
	Bridges []string
}

// chain is one of ours: its rules, and where it is jumped to from.
type chain struct {
	table, name string
	parents     []parent
	guests      []string // other people's chains: jumped from when they exist
	rules       []string // as iptables-save writes them, without "-A NAME "
	policy      string   // wanted of the first parent; empty: as it is
}

// parent is a built-in chain, always there, that jumps to one of ours.
type parent struct {
	name  string
	match string // of the jump, as iptables-save writes it; empty: every packet
}

const toThisHost = "-m addrtype --dst-type LOCAL"

var namePattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}$`)

// IsUplinkName says whether a rule can name an interface. The kernel takes stranger
// names, of which iptables takes some for patterns.
func IsUplinkName(name string) bool { return namePattern.MatchString(name) }

// ours are the chains without their rules, those of a table together.
func ours() []chain {
	return []chain{
		{table: "filter", name: forwardChain, parents: []parent{{name: "FORWARD"}}, guests: []string{dockerUserChain}},
		{table: "filter", name: inputChain, parents: []parent{{name: "INPUT"}}},
		{table: "nat", name: postroutingChain, parents: []parent{{name: "POSTROUTING"}}},
		{table: "nat", name: portsChain, parents: []parent{
			// What comes over a wire to 127.0.0.0/8 is forged: were its destination
			// changed here, the kernel would not see that any more, and a port that
			// is published on 127.0.0.1 would be open to the neighbours.
			{name: "PREROUTING", match: "! -d 127.0.0.0/8 " + toThisHost},
			{name: "OUTPUT", match: toThisHost},
		}},
		{table: "raw", name: rawChain, parents: []parent{{name: "PREROUTING"}}},
		{table: "raw", name: outputChain, parents: []parent{{name: "OUTPUT"}}},
	}
}

// chains renders the rules in the very words of iptables-save, so that they
// can be compared with what it prints.
func (r Rules) chains() ([]chain, error) {
	prefix := r.GatewayPrefix
	if prefix == "" {
		prefix = DefaultGatewayPrefix
	}
	if !namePattern.MatchString(prefix) {
		return nil, fmt.Errorf("gateway prefix %.40q cannot begin an interface name", prefix)
	}
	networks := slices.Clone(r.Networks)
	for _, n := range networks {
		if !n.Subnet.IsValid() || !n.Subnet.Addr().Is4() || n.Subnet.Masked() != n.Subnet || n.Subnet.Bits() == 0 {
			return nil, fmt.Errorf("subnet %s is not an IPv4 network", n.Subnet)
		}
		if !namePattern.MatchString(n.GatewayPort) || !strings.HasPrefix(n.GatewayPort, prefix) {
			return nil, fmt.Errorf("gateway port %.40q of %s does not begin with %q", n.GatewayPort, n.Subnet, prefix)
		}
	}
	slices.SortFunc(networks, func(a, b Network) int { return a.Subnet.Compare(b.Subnet) })
	networks = slices.Compact(networks)
	uplinks := slices.Compact(slices.Sorted(slices.Values(r.Uplinks)))
	for _, name := range uplinks {
		if !IsUplinkName(name) || strings.HasPrefix(name, prefix) {
			return nil, fmt.Errorf("%.40q is no uplink's name", name)
		}
	}
	bridges := slices.Compact(slices.Sorted(slices.Values(r.Bridges)))
	if !r.DenyForward {
		bridges = nil
	}
	for _, name := range bridges {
		if !IsUplinkName(name) || strings.HasPrefix(name, prefix) {
			return nil, fmt.Errorf("%.40q is no bridge's name", name)
		}
	}
	published, err := sanePublished(r.Published)
	if err != nil {
		return nil, err
	}

	all := ours()
	any := prefix + "+" // iptables: every interface that begins so
	all[0].rules = forwardRules(any, networks, uplinks, bridges)
	if r.DenyForward {
		all[0].policy = "DROP"
	}
	all[1].rules = inputRules(any, networks)
	all[2].rules = masquerade(any, networks)
	all[3].rules = portRules(published)
	all[4].rules = rawRules(any, networks)
	// A container that reaches a neighbour's published port would be told to
	// send what is for the host to that neighbour instead (RFC 1122, 3.2.2.2).
	// The sysctl send_redirects of one interface cannot stop that alone.
	all[5].rules = []string{"-o " + any + " -p icmp -m icmp --icmp-type 5 -j DROP"}
	return all, nil
}

// sanePublished sorts published ports so that the one for a single address of
// the host comes before the one for all.
func sanePublished(published []Published) ([]Published, error) {
	published = slices.Clone(published)
	for _, p := range published {
		if err := p.check(); err != nil {
			return nil, err
		}
		if p.HostPort == 0 || !p.To.Addr().Is4() || p.To.Port() == 0 {
			return nil, fmt.Errorf("published port %s to %s is not one", p.Port, p.To)
		}
	}
	slices.SortFunc(published, func(a, b Published) int {
		return cmp.Or(strings.Compare(a.Proto, b.Proto), cmp.Compare(a.HostPort, b.HostPort),
			b.hostIP().Compare(a.hostIP()), a.To.Compare(b.To)) // 0.0.0.0 last
	})
	return slices.Compact(published), nil
}

// portRules lead published ports to their endpoints.
func portRules(published []Published) []string {
	var rules []string
	for _, p := range published {
		rule := fmt.Sprintf("-p %[1]s -m %[1]s --dport %d -j DNAT --to-destination %s", p.Proto, p.HostPort, p.To)
		if ip := p.hostIP(); !ip.IsUnspecified() {
			rule = fmt.Sprintf("-d %s/32 %s", ip, rule)
		}
		rules = append(rules, rule)
	}
	return rules
}

// rawRules drop what containers send before anything else sees it.
//
// They close what route_localnet on the gateway ports opens (see package link): a
// container could speak to what listens on the host's loopback only, or pretend to
// come from there (CVE-2020-8558).
//
// And they keep containers from the cloud's metadata, but not from its name server.
func rawRules(any string, networks []Network) []string {
	rules := []string{
		"-d 127.0.0.0/8 -i " + any + " -j DROP",
		"-s 127.0.0.0/8 -i " + any + " -j DROP",
	}
	for _, s := range metadata.Services {
		for _, n := range networks {
			if n.Metadata {
				rules = append(rules, fmt.Sprintf("-d %s -i %s -j RETURN", s.Addrs, n.GatewayPort))
			}
		}
		if s.DNS {
			for _, proto := range []string{"udp", "tcp"} {
				rules = append(rules, fmt.Sprintf("-d %s -i %s -p %[3]s -m %[3]s --dport 53 -j RETURN", s.Addrs, any, proto))
			}
		}
		rules = append(rules, fmt.Sprintf("-d %s -i %s -j DROP", s.Addrs, any))
	}
	return rules
}

// forwardRules are for what passes the host from or to the networks. Nothing is
// forwarded that nobody asked for: a container leaves by an uplink or reaches what
// is published. The bridges of Docker and others are no uplinks, so what they keep
// closed stays closed.
func forwardRules(any string, networks []Network, uplinks, bridges []string) []string {
	var rules []string
	for _, n := range networks {
		// A container's address on a packet from anywhere else is forged. It would
		// leave masqueraded.
		rules = append(rules, fmt.Sprintf("-s %s ! -i %s -j DROP", n.Subnet, any))
	}
	rules = append(rules,
		// What was sent to a published port, whoever published it, and the
		// answers: published is published to everybody.
		"-o "+any+" -m conntrack --ctstate DNAT -j ACCEPT",
		// From one network into another nothing else is forwarded.
		"-i "+any+" -o "+any+" -j DROP",
		// Answers to what went out.
		"-o "+any+" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
		// Nobody outside, and no container of Docker's, begins.
		"-o "+any+" -j DROP",
	)
	for _, name := range uplinks {
		// Out to the world, also where the policy is DROP.
		rules = append(rules, "-i "+any+" -o "+name+" -j ACCEPT")
	}
	for _, name := range bridges {
		rules = append(rules, "-i "+any+" -o "+name+" -m conntrack --ctstate DNAT -j ACCEPT")
	}
	rules = append(rules,
		// To a port that Docker, or somebody else, publishes: they decide.
		"-i "+any+" -m conntrack --ctstate DNAT -j RETURN",
		"-i "+any+" -j DROP",
	)
	for _, name := range bridges {
		// Docker has decided what reaches its containers, and may not be overruled by a
		// policy that is there because of us.
		rules = append(rules, "-i "+name+" -j ACCEPT", "-o "+name+" -j ACCEPT")
	}
	return rules
}

// inputRules keep a network's containers from the gateway addresses of other
// networks, which are the host's own and so never forwarded.
func inputRules(any string, networks []Network) []string {
	// Answers of a published port that the host reached by any address of its own.
	rules := []string{"-i " + any + " -m conntrack --ctstate DNAT -j RETURN"}
	for _, n := range networks {
		rules = append(rules, fmt.Sprintf("-d %s -i %s -j RETURN", n.Subnet, n.GatewayPort))
	}
	for _, n := range networks {
		rules = append(rules, fmt.Sprintf("-d %s -i %s -j DROP", n.Subnet, any))
	}
	return rules
}

// masquerade is for what leaves the networks. What leaves by a gateway port
// keeps its source: it stays inside. But two kinds that a published port led
// there need an answer that comes back this way: what the host itself sent from
// 127.0.0.0/8, and what came from the same network, whose answer would go
// straight to the sender.
func masquerade(any string, networks []Network) []string {
	rules := []string{
		// VXLAN that is forwarded keeps its source, whatever else lets it pass:
		// with this host's address another host would take it for ours.
		"-p udp -m udp --dport 4789 -j RETURN",
		"-s 127.0.0.0/8 -o " + any + " -j MASQUERADE",
	}
	for _, n := range networks {
		rules = append(rules,
			fmt.Sprintf("-s %s ! -o %s -j MASQUERADE", n.Subnet, any),
			fmt.Sprintf("-s %[1]s -d %[1]s -o %[2]s -m conntrack --ctstate DNAT -j MASQUERADE", n.Subnet, n.GatewayPort))
	}
	return rules
}
