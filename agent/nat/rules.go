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

// Our chains. Every jump to one is the first rule of its chain. Docker inserts its own
// jump to DOCKER-USER before ours in FORWARD when it starts. So DOCKER-USER, which Docker
// leaves to users, also jumps to our chain.
const (
	forwardChain     = "SOCKETPLANE-FORWARD"
	inputChain       = "SOCKETPLANE-INPUT"
	postroutingChain = "SOCKETPLANE-POSTROUTING"
	portsChain       = "SOCKETPLANE-PORTS"
	rawChain         = "SOCKETPLANE-RAW"
	outputChain      = "SOCKETPLANE-OUTPUT"

	dockerUserChain = "DOCKER-USER"
)

// DefaultGatewayPrefix is the default prefix of the names of gateway ports.
const DefaultGatewayPrefix = "spg"

// Network is a network that this host uses.
type Network struct {
	Subnet      netip.Prefix // IPv4
	GatewayPort string       // interface of the network's gateway on this host
	Metadata    bool         // its containers may reach the cloud's metadata services
}

// Published is a port of the host that leads to an endpoint.
type Published struct {
	Port
	To netip.AddrPort // address and port of the endpoint
}

// Rules is the complete desired state.
type Rules struct {
	Networks      []Network
	Published     []Published
	GatewayPrefix string // prefix of all gateway ports; empty: DefaultGatewayPrefix
	// Uplinks are the interfaces by which containers may leave the host.
	Uplinks []string
	// DenyForward sets the policy of FORWARD to DROP. It is for a host that forwards only
	// because the agent enabled forwarding; Docker does the same on such a host. False
	// leaves the policy unchanged.
	DenyForward bool
	// Bridges are the bridges for which Docker has its packet filter in nftables. They
	// count only with DenyForward. There Docker drops what it does not publish, but it
	// cannot accept what the policy of FORWARD drops.
	Bridges []string
}

// chain is one of our chains, with its rules and the chains that jump to it.
type chain struct {
	table, name string
	parents     []parent
	guests      []string // chains of others that jump to it if they exist
	rules       []string // in the format of iptables-save, without "-A NAME "
	policy      string   // wanted policy of the first parent; empty: unchanged
}

// parent is a built-in chain that jumps to one of ours.
type parent struct {
	name  string
	match string // match of the jump in the format of iptables-save; empty: every packet
}

const toThisHost = "-m addrtype --dst-type LOCAL"

var namePattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}$`)

// IsUplinkName reports whether a rule can contain the name of an interface. The kernel
// accepts other names too, and iptables takes some of those for patterns.
func IsUplinkName(name string) bool { return namePattern.MatchString(name) }

// ours returns our chains without their rules, grouped by table.
func ours() []chain {
	return []chain{
		{table: "filter", name: forwardChain, parents: []parent{{name: "FORWARD"}}, guests: []string{dockerUserChain}},
		{table: "filter", name: inputChain, parents: []parent{{name: "INPUT"}}},
		{table: "nat", name: postroutingChain, parents: []parent{{name: "POSTROUTING"}}},
		{table: "nat", name: portsChain, parents: []parent{
			// A packet from a wire to 127.0.0.0/8 is forged. If its destination were
			// changed here, the kernel would no longer detect that. A port that is
			// published on 127.0.0.1 would then be open to neighbours.
			{name: "PREROUTING", match: "! -d 127.0.0.0/8 " + toThisHost},
			{name: "OUTPUT", match: toThisHost},
		}},
		{table: "raw", name: rawChain, parents: []parent{{name: "PREROUTING"}}},
		{table: "raw", name: outputChain, parents: []parent{{name: "OUTPUT"}}},
	}
}

// chains renders the rules exactly as iptables-save prints them, so that they can be
// compared with its output.
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
	any := prefix + "+" // iptables: every interface with this prefix
	all[0].rules = forwardRules(any, networks, uplinks, bridges)
	if r.DenyForward {
		all[0].policy = "DROP"
	}
	all[1].rules = inputRules(any, networks)
	all[2].rules = masquerade(any, networks)
	all[3].rules = portRules(published)
	all[4].rules = rawRules(any, networks)
	// When a container reaches a published port of a neighbour, the host would send it a
	// redirect to that neighbour (RFC 1122, 3.2.2.2). The sysctl send_redirects of one
	// interface cannot prevent that alone.
	all[5].rules = []string{"-o " + any + " -p icmp -m icmp --icmp-type 5 -j DROP"}
	return all, nil
}

// sanePublished sorts published ports so that a port of one address of the host precedes
// the same port of all addresses.
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
			b.hostIP().Compare(a.hostIP()), a.To.Compare(b.To)) // 0.0.0.0 sorts last
	})
	return slices.Compact(published), nil
}

// portRules returns the rules that lead published ports to their endpoints.
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

// rawRules returns the rules that drop packets of containers before any other rule sees
// them.
//
// They close what route_localnet on the gateway ports opens (see package link). Without
// them a container could reach services that listen only on the host's loopback, or send
// packets with a loopback source (CVE-2020-8558).
//
// They also block the cloud's metadata services, but not its name server.
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

// forwardRules returns the rules for packets that the host forwards from or to the
// networks. They allow only what somebody asked for: a container may leave by an uplink
// or reach published ports. The bridges of Docker and others are not uplinks, so what
// those block stays blocked.
func forwardRules(any string, networks []Network, uplinks, bridges []string) []string {
	var rules []string
	for _, n := range networks {
		// A packet from elsewhere with a container's source address is forged. It would
		// leave masqueraded.
		rules = append(rules, fmt.Sprintf("-s %s ! -i %s -j DROP", n.Subnet, any))
	}
	rules = append(rules,
		// Packets to a published port, whoever published it, and the answers. A published
		// port is open to everybody.
		"-o "+any+" -m conntrack --ctstate DNAT -j ACCEPT",
		// Other packets from one network to another.
		"-i "+any+" -o "+any+" -j DROP",
		// Answers to connections from containers.
		"-o "+any+" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
		// Neither the outside nor a container of Docker may open a connection.
		"-o "+any+" -j DROP",
	)
	for _, name := range uplinks {
		// Packets to the outside, even if the policy is DROP.
		rules = append(rules, "-i "+any+" -o "+name+" -j ACCEPT")
	}
	for _, name := range bridges {
		rules = append(rules, "-i "+any+" -o "+name+" -m conntrack --ctstate DNAT -j ACCEPT")
	}
	rules = append(rules,
		// Packets to a port that Docker or somebody else publishes: their rules decide.
		"-i "+any+" -m conntrack --ctstate DNAT -j RETURN",
		"-i "+any+" -j DROP",
	)
	for _, name := range bridges {
		// Docker has already decided what reaches its containers. The DROP policy, which
		// exists because of us, must not overrule that.
		rules = append(rules, "-i "+name+" -j ACCEPT", "-o "+name+" -j ACCEPT")
	}
	return rules
}

// inputRules returns the rules that keep the containers of a network from the gateway
// addresses of other networks. Those are addresses of the host, so packets to them are
// never forwarded.
func inputRules(any string, networks []Network) []string {
	// Answers from a published port that the host reached by any of its own addresses.
	rules := []string{"-i " + any + " -m conntrack --ctstate DNAT -j RETURN"}
	for _, n := range networks {
		rules = append(rules, fmt.Sprintf("-d %s -i %s -j RETURN", n.Subnet, n.GatewayPort))
	}
	for _, n := range networks {
		rules = append(rules, fmt.Sprintf("-d %s -i %s -j DROP", n.Subnet, any))
	}
	return rules
}

// masquerade returns the rules for packets that leave the networks. Packets that leave by
// a gateway port stay inside, so they keep their source. Two kinds of packets to a
// published port are exceptions, because the answer must return by this host. One is from
// the host itself, from 127.0.0.0/8. The other is from the same network, where the answer
// would go directly to the sender.
func masquerade(any string, networks []Network) []string {
	rules := []string{
		// Forwarded VXLAN keeps its source, whatever other rule accepts it. With this
		// host's address, another host would accept it as ours.
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
