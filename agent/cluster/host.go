// Package cluster manages the membership of the cluster: this host's identity and record,
// the session that proves it alive, and the list of all hosts. It never touches a packet
// and knows nothing of networks or endpoints.
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

// HostsPrefix is the prefix of the host records. Each key ends with a host ID.
const HostsPrefix = state.Prefix + "hosts/"

// Limits of a record's underlay MTU, in bytes. minMTU leaves an inner packet of 576
// bytes, which every host must accept (RFC 791), under VXLAN over IPv6. maxMTU is the
// maximum size of an IPv4 packet.
const (
	minMTU = 576 + 70
	maxMTU = 65535
)

// maxName limits a host name, in bytes, as for a DNS name (RFC 1035).
const maxName = 253

// recordVersion is the version of the record's layout.
const recordVersion = 1

// Host is a machine that runs the agent. Each host writes only its own record.
type Host struct {
	ID       string         // UUID, persisted in the state directory
	Name     string         // for display; need not be unique
	VTEP     netip.Addr     // tunnel address
	MTU      int            // bytes of an IP packet on the underlay
	Routes   []netip.Prefix // destinations that this host reaches by its own routes, for overlap checks
	Version  string         // agent version
	Datapath string         // system or netdev
	Node     string         // the machine's name in the store's failure detector; empty: not watched
	Boot     string         // ID of the machine's current boot, see BootID
	Addrs    []netip.Prefix // addresses of this host with their prefix lengths, without those of gateways; not stored
	Alive    bool           // its session holds the record; read from the store, not stored
	Revision uint64         // version of the record's key; read from the store, not stored

	Capabilities []string // see Lacking

	Unknown stored.Unknown // members written by a later release
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

// Decode decodes a host's record. The error names the key.
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

// printable reports whether s is safe to print, so that names from other hosts cannot
// move a terminal's cursor.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// DecodeAll decodes a snapshot of HostsPrefix, sorted by name and then ID. It omits a
// record that it cannot decode and returns an error for it.
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
