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

// proofKey derives the key of announcements from the token, apart from that of
// the gossip.
func (t Token) proofKey() ([]byte, error) {
	key, err := hkdf.Key(sha256.New, []byte(t.text), nil, "socketplane announcement 1", 32)
	if err != nil {
		return nil, fmt.Errorf("derive the key of announcements: %w", err)
	}
	return key, nil
}

// proof is what only a host with the token can say of an address and a port. It
// tells who looks for a cluster which of them to ask. It can be repeated by
// others, but only for the same address: the answer under the gossip key decides.
// Nothing of the token or the cluster can be told from it, not even whether two
// hosts are of one cluster.
func proof(key []byte, addr netip.Addr, port uint16) string {
	mac := hmac.New(sha256.New, key)
	mac.Write(addr.AsSlice())
	mac.Write(binary.BigEndian.AppendUint16(nil, port))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:proofBytes])
}

// announcement is what a host of a cluster says on its segment.
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

// What an announcement turns out to be.
type verdict int

const (
	notOurs    verdict = iota // of another program, another version or another port
	otherToken                // of a cluster with another token, or a lie
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
