package cluster

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/socketplane/socketplane/agent/cluster/mdns"
)

const (
	announcementVersion = "v=1"
	proofPrefix         = "proof="
	proofBytes          = 16
)

// proofKey derives the key for announcements from the token. It differs from the gossip
// key.
func (t Token) proofKey() ([]byte, error) {
	key, err := hkdf.Key(sha256.New, []byte(t.text), nil, "socketplane announcement 1", 32)
	if err != nil {
		return nil, fmt.Errorf("derive the key of announcements: %w", err)
	}
	return key, nil
}

// proof returns a MAC of an address and a port that only a host with the token can
// compute. A host that looks for a cluster uses it to choose which announced hosts to
// probe. Others can replay it, but only for the same address, and the probe under the
// gossip key decides. The proof reveals nothing about the token or the cluster, not even
// whether two hosts are in the same cluster.
func proof(key []byte, addr netip.Addr, port uint16) string {
	mac := hmac.New(sha256.New, key)
	mac.Write(addr.AsSlice())
	mac.Write(binary.BigEndian.AppendUint16(nil, port))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:proofBytes])
}

// announcement returns the mDNS announcement of a host in a cluster.
func announcement(token Token, instance string, addr netip.Addr, port int) (mdns.Announcement, error) {
	key, err := token.proofKey()
	if err != nil {
		return mdns.Announcement{}, err
	}
	return mdns.Announcement{
		Instance: instance, Addr: addr, Port: uint16(port),
		Text: []string{announcementVersion, proofPrefix + proof(key, addr, uint16(port))},
	}, nil
}

// verdict is the result of checking an announcement.
type verdict int

const (
	notOurs    verdict = iota // another program, version or port
	otherToken                // a cluster with another token, or a forged proof
	sameToken
)

func judge(key []byte, a mdns.Announcement, port int) verdict {
	if int(a.Port) != port || !a.Addr.Is4() || len(a.Text) != 2 || a.Text[0] != announcementVersion {
		return notOurs
	}
	said, ok := strings.CutPrefix(a.Text[1], proofPrefix)
	if !ok {
		return notOurs
	}
	if !hmac.Equal([]byte(said), []byte(proof(key, a.Addr, a.Port))) {
		return otherToken
	}
	return sameToken
}
