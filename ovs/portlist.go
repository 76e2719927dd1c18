package ovs

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/ovn-org/libovsdb/ovsdb"
)

// cachedPort returns a port and its interface from the cache, or nil for each that is not
// there.
func cachedPort(c *session, name string) (*portRow, *interfaceRow) {
	var port *portRow
	if _, m, err := c.cache.Table(tablePort).RowByModel(&portRow{Name: name}); err == nil && m != nil {
		port, _ = m.(*portRow)
	}
	return port, cachedInterface(c, name)
}

func cachedInterface(c *session, name string) *interfaceRow {
	_, m, err := c.cache.Table(tableInterface).RowByModel(&interfaceRow{Name: name})
	if err != nil || m == nil {
		return nil
	}
	iface, _ := m.(*interfaceRow)
	return iface
}

func (s *Switch) onBridge(c *session, port string) bool {
	b := s.cachedBridge(c)
	return b != nil && slices.Contains(b.Ports, port)
}

func (s *Switch) selectPorts(ctx context.Context) ([]Port, error) {
	results, err := s.transact(
		ctx,
		ovsdb.Operation{Op: ovsdb.OperationSelect, Table: tableBridge, Where: whereName(s.cfg.Bridge), Columns: []string{"ports"}},
		ovsdb.Operation{Op: ovsdb.OperationSelect, Table: tablePort, Columns: []string{"_uuid", "name", "tag", "external_ids"}},
		ovsdb.Operation{Op: ovsdb.OperationSelect, Table: tableInterface, Columns: []string{"name", "mac", "mtu_request", "ofport", "error"}},
	)
	if err != nil {
		return nil, err
	}
	ours := map[string]bool{}
	for _, b := range results[0].Rows {
		for _, uuid := range rowUUIDs(b, "ports") {
			ours[uuid] = true
		}
	}
	ifaces := map[string]ovsdb.Row{}
	for _, r := range results[2].Rows {
		ifaces[rowString(r, "name")] = r
	}
	var ports []Port
	for _, r := range results[1].Rows {
		uuids := rowUUIDs(r, "_uuid")
		ids := rowMap(r, "external_ids")
		if len(uuids) != 1 || !ours[uuids[0]] || ids[idKind] == "" {
			continue
		}
		p := Port{Name: rowString(r, "name"), Kind: ids[idKind], VLAN: rowInt(r, "tag"), IDs: map[string]string{}}
		for k, v := range ids {
			if bare, ok := strings.CutPrefix(k, idPrefix); ok && k != idKind {
				p.IDs[bare] = v
			}
		}
		i := ifaces[p.Name]
		p.MAC, p.MTU = rowString(i, "mac"), rowInt(i, "mtu_request")
		p.OFPort, p.Error = rowInt(i, "ofport"), rowString(i, "error")
		ports = append(ports, p)
	}
	slices.SortFunc(ports, func(a, b Port) int { return cmp.Compare(a.Name, b.Name) })
	return ports, nil
}
