package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/uuid"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/stored"
)

// Place is this host's place in a cluster with a managed Consul, as stored in the state
// directory. Some changes take effect only when the agent restarts.
type Place struct {
	Is      string       // api.PlaceAlone, PlaceBootstrapped or PlaceJoined
	Cluster string       // UUID
	Server  bool         // this host's Consul is a server
	Settled bool         // the state of the standalone host was carried over or removed
	Peers   []netip.Addr // last known addresses of other hosts, used to find the cluster
	Iface   string       // set by `cluster bind`; empty: from the settings, or detected
	Left    bool         // a standalone host that left a cluster; it joins one only on request

	Unknown stored.Unknown // members written by a later release
}

// placeValue is the stored form of a Place.
type placeValue struct {
	Version int          `json:"version"`
	Is      string       `json:"is"`
	Cluster string       `json:"cluster,omitempty"`
	Server  bool         `json:"server,omitempty"`
	Settled bool         `json:"settled,omitempty"`
	Peers   []netip.Addr `json:"peers,omitempty"`
	Iface   string       `json:"iface,omitempty"`
	Left    bool         `json:"left,omitempty"`

	Unknown stored.Unknown `json:"-"`
}

const (
	placeVersion = 1
	placeFile    = "cluster.json"
	tokenFile    = "cluster.token"
	maxPlaceFile = 64 << 10 // bytes
	maxPeers     = 64
)

// LoadPlace reads the host's place from dir. A host without the file is alone.
func LoadPlace(dir string) (Place, error) {
	path := filepath.Join(dir, placeFile)
	data, err := readSmall(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Place{Is: api.PlaceAlone}, nil
	}
	if err != nil {
		return Place{}, err
	}
	p, err := decodePlace(data)
	if errors.Is(err, stored.ErrNewer) {
		return Place{}, fmt.Errorf("%s: %w", path, err)
	}
	if err != nil {
		return Place{}, fmt.Errorf("%s does not say what this host is in the cluster (%w); mend it, or remove it and join again", path, err)
	}
	return p, nil
}

func decodePlace(data []byte) (Place, error) {
	var v placeValue
	if err := stored.Decode(data, placeVersion, &v); err != nil {
		return Place{}, err
	}
	_, idErr := uuid.Parse(v.Cluster)
	switch {
	case v.Is != api.PlaceAlone && v.Is != api.PlaceBootstrapped && v.Is != api.PlaceJoined:
		return Place{}, fmt.Errorf("%.40q is no place", v.Is)
	case v.Is == api.PlaceAlone && (v.Cluster != "" || v.Server || v.Settled || len(v.Peers) > 0):
		return Place{}, errors.New("a host alone is in no cluster")
	case v.Is != api.PlaceAlone && v.Left:
		return Place{}, errors.New("a host in a cluster has not left it")
	case v.Is != api.PlaceAlone && idErr != nil:
		return Place{}, fmt.Errorf("%.40q is no cluster's id", v.Cluster)
	case len(v.Peers) > maxPeers || slices.ContainsFunc(v.Peers, func(a netip.Addr) bool { return !a.Is4() }):
		return Place{}, errors.New("its peers are no IPv4 addresses, or too many")
	case v.Iface != "" && api.CheckIfName(v.Iface) != nil:
		return Place{}, fmt.Errorf("%.40q is no interface", v.Iface)
	}
	return Place{Is: v.Is, Cluster: v.Cluster, Server: v.Server, Settled: v.Settled, Peers: v.Peers, Iface: v.Iface, Left: v.Left, Unknown: v.Unknown}, nil
}

// Save writes the place to dir atomically.
func (p Place) Save(dir string) error {
	peers := p.Peers[:min(len(p.Peers), maxPeers)]
	data, err := stored.Encode(placeValue{
		Version: placeVersion, Is: p.Is, Cluster: p.Cluster, Server: p.Server, Settled: p.Settled, Peers: peers, Iface: p.Iface, Left: p.Left,
		Unknown: p.Unknown,
	})
	var text bytes.Buffer
	if err == nil {
		err = json.Indent(&text, data, "", "  ")
	}
	if err != nil {
		return fmt.Errorf("encode the place in the cluster: %w", err)
	}
	text.WriteByte('\n')
	return writeSmall(filepath.Join(dir, placeFile), text.Bytes())
}

// InCluster reports whether the agent manages a Consul on this host.
func (p Place) InCluster() bool { return p.Is != api.PlaceAlone }

// LoadToken reads the token in the state directory. It returns the zero Token if there is
// none.
func LoadToken(dir string) (Token, error) {
	path := filepath.Join(dir, tokenFile)
	data, err := readSmall(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Token{}, nil
	}
	if err != nil {
		return Token{}, err
	}
	t, err := ParseToken(string(data))
	if err != nil {
		return Token{}, fmt.Errorf("%s holds no token of a cluster; write it anew, or remove it", path)
	}
	return t, nil
}

// SaveToken writes the token to the state directory, readable by root only. The zero
// Token removes it.
func SaveToken(dir string, t Token) error {
	path := filepath.Join(dir, tokenFile)
	if t.IsZero() {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the token: %w", err)
		}
		return nil
	}
	return writeSmall(path, []byte(t.text+"\n"))
}
