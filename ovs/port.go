package ovs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/ovn-org/libovsdb/ovsdb"
)

// The kinds of port.
const (
	KindEndpoint = "endpoint" // the host end of an existing veth pair
	KindGateway  = "gateway"  // an internal port, which the switch creates
	KindTunnel   = "tunnel"   // VXLAN to one peer, see SetTunnels
)

// Keys in the external_ids of a port. A port without idKind is not ours. The keys of
// Port.IDs are stored with idPrefix.
const (
	idPrefix = "socketplane_"
	idKind   = idPrefix + "kind"
	idPeer   = idPrefix + IDPeer
	idRemote = idPrefix + IDRemote
)

// Keys in Port.IDs of a tunnel, see Tunnel.
const (
	IDPeer   = "peer"
	IDRemote = "remote"
)

// Port is one of our ports on the integration bridge.
type Port struct {
	Name   string
	Kind   string
	VLAN   int               // the port's tag, 1 to 4094; 0: none. It is for operators; flows ignore it
	MAC    string            // gateway only: the interface's MAC address
	MTU    int               // gateway only: the interface's MTU in bytes; 0: the switch chooses
	OFPort int               // OpenFlow port number; 0 or less if the switch has not opened the port
	Error  string            // why the switch could not open it
	IDs    map[string]string // metadata of the owner: endpoint, container, network, ip, mac ...
}

func (p Port) check() error {
	switch {
	case p.Name == "" || len(p.Name) > 15: // IFNAMSIZ
		return fmt.Errorf("name must be 1 to 15 bytes")
	case p.Kind != KindEndpoint && p.Kind != KindGateway:
		return fmt.Errorf("kind %q is neither %s nor %s", p.Kind, KindEndpoint, KindGateway)
	case p.VLAN < 0 || p.VLAN > 4094:
		return fmt.Errorf("vlan %d is outside 0 to 4094", p.VLAN)
	case p.Kind == KindGateway && p.MAC != "" && parseMAC(p.MAC) == "":
		return fmt.Errorf("mac %q is not a unicast MAC address", p.MAC)
	}
	return nil
}

// portSpec is the wanted content of a port's two rows.
type portSpec struct {
	name, kind, typ, mac string
	mtu, tag             int
	options, externalIDs map[string]string
}

func (p Port) spec() portSpec {
	spec := portSpec{name: p.Name, kind: p.Kind, tag: p.VLAN, options: map[string]string{}, externalIDs: map[string]string{idKind: p.Kind}}
	for k, v := range p.IDs {
		spec.externalIDs[idPrefix+k] = v
	}
	if p.Kind == KindGateway {
		spec.typ, spec.mac, spec.mtu = "internal", p.MAC, p.MTU
	}
	return spec
}

// AddPort adds a port to the bridge, waits until the switch has opened it, and returns
// its OpenFlow number. If a port of ours has that name, AddPort changes what differs. If
// another port has it, the error wraps ErrForeign. AddPort removes a port that the switch
// cannot open.
func (s *Switch) AddPort(ctx context.Context, p Port) (int, error) {
	if err := p.check(); err != nil {
		return 0, fmt.Errorf("add port %q: %w", p.Name, err)
	}
	unlock, err := s.lockName(ctx, p.Name)
	if err != nil {
		return 0, fmt.Errorf("add port %q: %w", p.Name, err)
	}
	defer unlock()
	ofport, err := s.addPort(ctx, p.spec())
	if err != nil {
		return 0, fmt.Errorf("add port %q: %w", p.Name, err)
	}
	return ofport, nil
}

func (s *Switch) addPort(ctx context.Context, spec portSpec) (int, error) {
	sess, err := s.connected(ctx)
	if err != nil {
		return 0, err
	}
	port, iface := cachedPort(sess, spec.name)
	if port != nil && (port.ExternalIDs[idKind] == "" || !s.onBridge(sess, port.UUID)) {
		return 0, ErrForeign
	}
	if port != nil && iface != nil && deref(iface.OFPort) > 0 && deref(iface.OFPortRequest) > 0 && iface.Type == spec.typ {
		if ops := spec.diffOps(port, iface); len(ops) > 0 {
			s.remember(spec, false)
			if _, err := s.transact(ctx, ops...); err != nil {
				return 0, err
			}
		}
		return deref(iface.OFPort), nil
	}
	request, release := s.reserveOFPort(sess, spec.name)
	defer release()
	var ops []ovsdb.Operation
	if port != nil { // the switch could not open it last time, or its type differs
		ops = append(ops, s.detachOp(port.UUID))
	}
	ops = append(ops, s.insertOps(spec, request, 0)...)
	s.remember(spec, port != nil)
	if _, err := s.transact(ctx, ops...); errors.Is(err, errUncertain) {
		return 0, s.undoPort(ctx, spec.name, err)
	} else if err != nil {
		return 0, err
	}
	ofport, err := s.awaitOFPort(ctx, spec.name)
	if err != nil {
		return 0, s.undoPort(ctx, spec.name, err)
	}
	return ofport, nil
}

// undoPort removes a half-made port, even if ctx has ended.
func (s *Switch) undoPort(ctx context.Context, name string, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	if err := s.removePort(ctx, name); err != nil {
		return fmt.Errorf("%w (and it could not be removed: %w)", cause, err)
	}
	return cause
}

// insertOps returns the operations that insert the two rows and add the port to the
// bridge. n distinguishes the rows of several ports in one transaction.
func (s *Switch) insertOps(spec portSpec, request, n int) []ovsdb.Operation {
	iface, port := "iface"+strconv.Itoa(n), "port"+strconv.Itoa(n)
	ifaceRow := ovsdb.Row{"name": spec.name, "type": spec.typ, "ofport_request": request}
	if spec.mac != "" {
		ifaceRow["mac"] = spec.mac
	}
	if spec.mtu > 0 {
		ifaceRow["mtu_request"] = spec.mtu
	}
	if len(spec.options) > 0 {
		ifaceRow["options"] = ovsMap(spec.options)
	}
	row := ovsdb.Row{"name": spec.name, "interfaces": namedUUID(iface), "external_ids": ovsMap(spec.externalIDs)}
	if spec.tag > 0 {
		row["tag"] = spec.tag
	}
	return []ovsdb.Operation{
		{Op: ovsdb.OperationInsert, Table: tableInterface, UUIDName: iface, Row: ifaceRow},
		{Op: ovsdb.OperationInsert, Table: tablePort, UUIDName: port, Row: row},
		{
			Op: ovsdb.OperationMutate, Table: tableBridge, Where: whereName(s.cfg.Bridge),
			Mutations: []ovsdb.Mutation{{Column: "ports", Mutator: ovsdb.MutateOperationInsert, Value: namedUUID(port)}},
		},
	}
}

// detachOp removes a port from the bridge. The database then deletes its rows.
func (s *Switch) detachOp(uuid string) ovsdb.Operation {
	return ovsdb.Operation{
		Op: ovsdb.OperationMutate, Table: tableBridge, Where: whereName(s.cfg.Bridge),
		Mutations: []ovsdb.Mutation{{Column: "ports", Mutator: ovsdb.MutateOperationDelete, Value: ovsdb.UUID{GoUUID: uuid}}},
	}
}

// diffOps returns the operations that set the columns that differ. It keeps external ids
// that are not ours.
func (p portSpec) diffOps(port *portRow, iface *interfaceRow) []ovsdb.Operation {
	var ops []ovsdb.Operation
	row := ovsdb.Row{}
	if deref(port.Tag) != p.tag {
		row["tag"] = optional(p.tag)
	}
	if ids := p.mergedIDs(port.ExternalIDs); !maps.Equal(port.ExternalIDs, ids) {
		row["external_ids"] = ovsMap(ids)
	}
	if len(row) > 0 {
		ops = append(ops, ovsdb.Operation{Op: ovsdb.OperationUpdate, Table: tablePort, Row: row, Where: whereName(p.name)})
	}
	row = ovsdb.Row{}
	if deref(iface.MAC) != p.mac {
		row["mac"] = optional(p.mac)
	}
	if deref(iface.MTURequest) != p.mtu {
		row["mtu_request"] = optional(p.mtu)
	}
	if !maps.Equal(iface.Options, p.options) {
		row["options"] = ovsMap(p.options)
	}
	if len(row) > 0 {
		ops = append(ops, ovsdb.Operation{Op: ovsdb.OperationUpdate, Table: tableInterface, Row: row, Where: whereName(p.name)})
	}
	return ops
}

// mergedIDs returns our external ids and the foreign ones that the port already has.
func (p portSpec) mergedIDs(have map[string]string) map[string]string {
	ids := maps.Clone(p.externalIDs)
	for k, v := range have {
		if !strings.HasPrefix(k, idPrefix) {
			ids[k] = v
		}
	}
	return ids
}

// RemovePort removes a port from the bridge. It succeeds if the port does not exist. The
// error wraps ErrForeign if the port is not ours.
func (s *Switch) RemovePort(ctx context.Context, name string) error {
	unlock, err := s.lockName(ctx, name)
	if err != nil {
		return fmt.Errorf("remove port %q: %w", name, err)
	}
	defer unlock()
	if err := s.removePort(ctx, name); err != nil {
		return fmt.Errorf("remove port %q: %w", name, err)
	}
	return nil
}

// removePort looks the port up in the database, because the cache may lag behind our last
// write.
func (s *Switch) removePort(ctx context.Context, name string) error {
	results, err := s.transact(
		ctx,
		ovsdb.Operation{Op: ovsdb.OperationSelect, Table: tablePort, Where: whereName(name), Columns: []string{"_uuid", "external_ids"}},
		ovsdb.Operation{Op: ovsdb.OperationSelect, Table: tableBridge, Where: whereName(s.cfg.Bridge), Columns: []string{"ports"}},
	)
	if err != nil {
		return err
	}
	if len(results[0].Rows) == 0 {
		return nil
	}
	row := results[0].Rows[0]
	uuids := rowUUIDs(row, "_uuid")
	if len(uuids) != 1 {
		return fmt.Errorf("the database gave no id for it")
	}
	if rowMap(row, "external_ids")[idKind] == "" || len(results[1].Rows) == 0 || !slices.Contains(rowUUIDs(results[1].Rows[0], "ports"), uuids[0]) {
		return ErrForeign
	}
	s.forget(name)
	_, err = s.transact(ctx, s.detachOp(uuids[0]))
	return err
}

// Ports returns our ports on the bridge, including tunnels, sorted by name. It reads the
// database, not the cache.
func (s *Switch) Ports(ctx context.Context) ([]Port, error) {
	ports, err := s.selectPorts(ctx)
	if err != nil {
		return nil, fmt.Errorf("list ports of bridge %q: %w", s.cfg.Bridge, err)
	}
	return ports, nil
}
