package nat

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// The chains we own, and the built-in ones that jump to them. Every jump comes
// first in its chain. Docker puts its own jump to DOCKER-USER before ours in
// FORWARD when it starts; so DOCKER-USER, which Docker leaves to others, jumps
// to ours as well.
const (
	forwardChain     = "SOCKETPLANE-FORWARD"
	inputChain       = "SOCKETPLANE-INPUT"
	postroutingChain = "SOCKETPLANE-POSTROUTING"

	dockerUserChain = "DOCKER-USER"
)

// DefaultGatewayPrefix is what the names of gateway ports begin with.
const DefaultGatewayPrefix = "spg"

// Network is a network that this host uses.
type Network struct {
	Subnet      netip.Prefix // IPv4
	GatewayPort string       // interface of its gateway on this host
}

// Rules is the whole desired state.
type Rules struct {
	Networks      []Network
	GatewayPrefix string // of all gateway ports; empty: DefaultGatewayPrefix
}

// chain is one of ours: its rules, and where it is jumped to from.
type chain struct {
	table, name string
	parents     []string // built-in chains: always there
	guests      []string // other people's chains: jumped from when they exist
	rules       []string // as iptables-save writes them, without "-A NAME "
}

var namePattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}$`)

// ours are the chains without their rules.
func ours() []chain {
	return []chain{
		{table: "filter", name: forwardChain, parents: []string{"FORWARD"}, guests: []string{dockerUserChain}},
		{table: "filter", name: inputChain, parents: []string{"INPUT"}},
		{table: "nat", name: postroutingChain, parents: []string{"POSTROUTING"}},
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

	all := ours()
	any := prefix + "+" // iptables: every interface that begins so
	all[0].rules = forwardRules(any)
	all[1].rules = inputRules(any, networks)
	all[2].rules = masquerade(any, networks)
	return all, nil
}

func forwardRules(any string) []string {
	return []string{
		// From one network into another nothing is forwarded.
		"-i " + any + " -o " + any + " -j DROP",
		// Answers to what went out.
		"-o " + any + " -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
		// Nobody outside, and no container of Docker's, begins.
		"-o " + any + " -j DROP",
		// Into Docker's bridges (docker0, docker_gwbridge): Docker decides.
		"-i " + any + " -o docker+ -j RETURN",
		// Out to the world, also where the policy is DROP.
		"-i " + any + " -j ACCEPT",
	}
}

// inputRules keep a network's containers from the gateway addresses of other
// networks, which are the host's own and so never forwarded.
func inputRules(any string, networks []Network) []string {
	var rules []string
	for _, n := range networks {
		rules = append(rules, fmt.Sprintf("-d %s -i %s -j RETURN", n.Subnet, n.GatewayPort))
	}
	for _, n := range networks {
		rules = append(rules, fmt.Sprintf("-d %s -i %s -j DROP", n.Subnet, any))
	}
	return rules
}

// masquerade is for what leaves the networks. What leaves by a gateway port
// keeps its source: it stays inside.
func masquerade(any string, networks []Network) []string {
	var rules []string
	for _, n := range networks {
		rules = append(rules, fmt.Sprintf("-s %s ! -o %s -j MASQUERADE", n.Subnet, any))
	}
	return rules
}
