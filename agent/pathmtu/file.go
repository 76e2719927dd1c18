package pathmtu

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/socketplane/socketplane/agent/wholefile"
)

// stored is kept over a restart of the agent. Otherwise the MTU of all containers in the
// cluster would rise and fall again with each restart.
type stored struct {
	Version int          `json:"version"`
	Peers   []storedPeer `json:"peers"`
}

type storedPeer struct {
	ID   string     `json:"id"`
	VTEP netip.Addr `json:"vtep"`
	MTU  int        `json:"mtu"`
}

// fileLimit limits the size of the file, in bytes. It suffices for some thousand peers.
const fileLimit = 1 << 20

// load reads the file. If that fails, the paths are measured again.
func (p *Paths) load() {
	data, err := wholefile.Read(p.file, fileLimit)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	var s stored
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err == nil && s.Version != 1 {
		err = fmt.Errorf("its layout is %d", s.Version)
	}
	if err != nil {
		p.logger.Warn("what was known of paths to other hosts cannot be read; they are measured again", "file", p.file, "err", err)
		return
	}
	for _, o := range s.Peers {
		if o.ID != "" && o.MTU >= Least {
			// The limit counts at once. The first call of Set marks hosts that are no
			// peers as absent.
			p.peers[o.ID] = &peer{Peer: Peer{ID: o.ID, VTEP: o.VTEP}, limit: o.MTU, here: true, left: time.Now()}
		}
	}
}

// save writes the limits to the file.
func (p *Paths) save() {
	s := stored{Version: 1, Peers: []storedPeer{}}
	p.mu.Lock()
	for id, o := range p.peers {
		if o.limit > 0 {
			s.Peers = append(s.Peers, storedPeer{ID: id, VTEP: o.VTEP, MTU: max(o.limit, Least)})
		}
	}
	p.mu.Unlock()
	data, err := json.Marshal(s)
	if err == nil {
		err = wholefile.Replace(p.file, data, 0o600, false)
	}
	if err != nil {
		p.logger.Warn("what is known of paths to other hosts is not kept", "err", err)
	}
}
