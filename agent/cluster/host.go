// Package cluster owns who is in the cluster: this host's identity and record,
// its session that proves it alive, and the list of all hosts. It never
// touches a packet and knows nothing of networks or endpoints.
package cluster

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/stored"
)

// HostsPrefix is where the records of the hosts lie, one key a host id.
const HostsPrefix = state.Prefix + "hosts/"

// What a record may say of an underlay, in bytes: the smallest MTU that leaves
// an inner packet the 576 bytes that every host must take (RFC 791) under VXLAN
// over IPv6, and the largest that an IPv4 packet can have.
const (
	minMTU = 576 + 70
	maxMTU = 65535
)

// maxName bounds a host's name, in bytes: a DNS name (RFC 1035).
const maxName = 253

// recordVersion is the version of the record's layout.
const recordVersion = 1

// Host is a machine that runs the agent. Each host writes only its own record.
type Host struct {
	ID       string         // UUID, persisted in the state directory
	Name     string         // for people; need not be unique
	VTEP     netip.Addr     // tunnel address
	MTU      int            // bytes of an IP packet on the underlay
	Routes   []netip.Prefix // what this host can reach by a route of its own, for overlap checks
	Version  string         // of the agent
	Datapath string         // system or netdev
	Node     string         // the machine's name in the store's failure detector; empty: not watched by one
	Boot     string         // id of the machine's present boot, see BootID
	Addrs    []netip.Prefix // addresses of this host with their prefix lengths, without those of gateways; not stored
	Alive    bool           // its session holds the record; not stored, read from the store
	Revision uint64         // version of the record's key; not stored, read from the store

	Capabilities []string // see Lacking

	Unknown stored.Unknown // what a later release has written beside
}

// record is the stored form of a Host.
type record struct {
	Version  int            `json:"version"`
	ID       string         `json:"id"`
	Name     string         `json:"name"`
	VTEP     netip.Addr     `json:"vtep"`
	MTU      int            `json:"underlay_mtu"`
	Routes   []netip.Prefix `json:"routes"`
	Agent    string         `json:"agent"` // version and capabilities, see encodeAgent
	Datapath string         `json:"datapath"`
	Node     string         `json:"node,omitempty"`
	Boot     string         `json:"boot,omitempty"`

	Unknown stored.Unknown `json:"-"`
}

func (h Host) encode() ([]byte, error) {
	return stored.Encode(record{
		Version: recordVersion, ID: h.ID, Name: h.Name, VTEP: h.VTEP, MTU: h.MTU,
		Routes: h.Routes, Agent: encodeAgent(h.Version, h.Capabilities), Datapath: h.Datapath, Node: h.Node, Boot: h.Boot,
		Unknown: h.Unknown,
	})
}

// Decode reads a host's record. The error names the key.
func Decode(e state.Entry) (Host, error) {
	var r record
	err := stored.Decode(e.Value, recordVersion, &r)
	switch {
	case errors.Is(err, stored.ErrNewer):
		return Host{}, fmt.Errorf("record %q of a host: %w", e.Key, err)
	case err != nil:
		return Host{}, fmt.Errorf("record %q of a host cannot be decoded (%w); delete the key", e.Key, err)
	case r.ID != strings.TrimPrefix(e.Key, HostsPrefix):
		return Host{}, fmt.Errorf("record %q of a host is of another, %q", e.Key, r.ID)
	case r.ID == "" || len(r.Name) > maxName || !printable(r.Name):
		return Host{}, fmt.Errorf("record %q of a host: its name is no host's name", e.Key)
	case len(r.Node) > maxName || !printable(r.Node) || len(r.Boot) > maxName || !printable(r.Boot):
		return Host{}, fmt.Errorf("record %q of a host: its node or boot is no name", e.Key)
	case r.MTU < minMTU || r.MTU > maxMTU:
		return Host{}, fmt.Errorf("record %q of a host: its MTU %d is not %d to %d", e.Key, r.MTU, minMTU, maxMTU)
	case !r.VTEP.IsValid() || r.VTEP.IsUnspecified() || r.VTEP.IsLoopback() || r.VTEP.IsMulticast() || r.VTEP.Zone() != "":
		return Host{}, fmt.Errorf("record %q of a host: %q is no tunnel address", e.Key, r.VTEP)
	}
	version, capabilities, err := decodeAgent(r.Agent)
	if err != nil {
		return Host{}, fmt.Errorf("record %q of a host: %w", e.Key, err)
	}
	return Host{
		ID: r.ID, Name: r.Name, VTEP: r.VTEP, MTU: r.MTU, Routes: r.Routes,
		Version: version, Capabilities: capabilities, Datapath: r.Datapath, Node: r.Node, Boot: r.Boot,
		Alive: e.Session != "", Revision: e.Version, Unknown: r.Unknown,
	}, nil
}

// printable keeps what other hosts call themselves from moving a terminal's cursor.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// DecodeAll reads a snapshot of HostsPrefix, sorted by name then id. A record
// that cannot be read is left out and told in the errors.
func DecodeAll(entries []state.Entry) ([]Host, []error) {
	var hosts []Host
	var errs []error
	for _, e := range entries {
		h, err := Decode(e)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		hosts = append(hosts, h)
	}
	slices.SortFunc(hosts, func(a, b Host) int {
		return strings.Compare(a.Name+"\x00"+a.ID, b.Name+"\x00"+b.ID)
	})
	return hosts, errs
}
