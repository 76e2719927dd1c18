package ovs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/ovn-org/libovsdb/ovsdb"
)

// failModeSecure keeps the switch from forwarding as a learning switch when it has no
// flows or no controller.
const failModeSecure = "secure"

// bridgeMark are the external ids that mark the bridge as ours.
var bridgeMark = map[string]string{"socketplane": "bridge"}

// root returns the only row of table Open_vSwitch.
func (c *session) root() (*rootRow, error) {
	for _, m := range c.cache.Table(tableRoot).RowsShallow() {
		if r, ok := m.(*rootRow); ok {
			return r, nil
		}
	}
	return nil, errors.New("OVSDB has no Open_vSwitch row; run `ovs-vsctl init`")
}

// cachedBridge returns the row of the integration bridge, or nil if there is none.
func (s *Switch) cachedBridge(c *session) *bridgeRow {
	_, m, err := c.cache.Table(tableBridge).RowByModel(&bridgeRow{Name: s.cfg.Bridge})
	if err != nil || m == nil {
		return nil
	}
	b, _ := m.(*bridgeRow)
	return b
}

// ensureBridge creates the bridge or sets the columns that differ. It reports whether it
// wrote anything.
func (s *Switch) ensureBridge(ctx context.Context) (bool, error) {
	sess, err := s.connected(ctx)
	if err != nil {
		return false, err
	}
	var ops []ovsdb.Operation
	if b := s.cachedBridge(sess); b != nil {
		row := s.bridgeDiff(b)
		if len(row) == 0 {
			return false, nil
		}
		ops = []ovsdb.Operation{{Op: ovsdb.OperationUpdate, Table: tableBridge, Row: row, Where: whereName(s.cfg.Bridge)}}
	} else {
		root, err := sess.root()
		if err != nil {
			return false, err
		}
		ops = s.bridgeInsert(root.UUID)
	}
	if _, err := s.transact(ctx, ops...); err != nil {
		return false, fmt.Errorf("make bridge %q: %w", s.cfg.Bridge, err)
	}
	return true, nil
}

func (s *Switch) bridgeInsert(root string) []ovsdb.Operation {
	row := s.bridgeDiff(&bridgeRow{})
	row["name"] = s.cfg.Bridge
	row["datapath_type"] = s.Datapath() // set even if it equals the default, so that operators can see it
	row["ports"] = namedUUID("port")
	return []ovsdb.Operation{
		{Op: ovsdb.OperationInsert, Table: tableInterface, UUIDName: "iface", Row: ovsdb.Row{"name": s.cfg.Bridge, "type": "internal"}},
		{Op: ovsdb.OperationInsert, Table: tablePort, UUIDName: "port", Row: ovsdb.Row{"name": s.cfg.Bridge, "interfaces": namedUUID("iface")}},
		{Op: ovsdb.OperationInsert, Table: tableBridge, UUIDName: "bridge", Row: row},
		{
			Op: ovsdb.OperationMutate, Table: tableRoot,
			Mutations: []ovsdb.Mutation{{Column: "bridges", Mutator: ovsdb.MutateOperationInsert, Value: namedUUID("bridge")}},
			Where:     []ovsdb.Condition{ovsdb.NewCondition("_uuid", ovsdb.ConditionEqual, ovsdb.UUID{GoUUID: root})},
		},
	}
}

// bridgeDiff returns the columns of b that differ from the wanted ones, with the wanted
// values.
func (s *Switch) bridgeDiff(b *bridgeRow) ovsdb.Row {
	row := ovsdb.Row{}
	if deref(b.FailMode) != failModeSecure {
		row["fail_mode"] = failModeSecure
	}
	// An empty type means system.
	if datapath := s.Datapath(); cmp.Or(b.DatapathType, DatapathSystem) != datapath {
		row["datapath_type"] = datapath
	}
	if len(b.Controller) > 0 {
		row["controller"] = ovsdb.OvsSet{GoSet: []any{}}
	}
	if b.STPEnable {
		row["stp_enable"] = false
	}
	ids := maps.Clone(b.ExternalIDs)
	if ids == nil {
		ids = map[string]string{}
	}
	maps.Copy(ids, bridgeMark)
	if !maps.Equal(ids, b.ExternalIDs) {
		row["external_ids"] = ovsMap(ids)
	}
	return row
}

// awaitBridge waits until ovs-vswitchd has applied the configuration. It increments
// next_cfg and waits for cur_cfg, as ovs-vsctl does. Every other column still holds the
// values that a dead ovs-vswitchd left there.
func (s *Switch) awaitBridge(ctx context.Context) error {
	sess, err := s.connected(ctx)
	if err != nil {
		return err
	}
	root, err := sess.root()
	if err != nil {
		return err
	}
	where := []ovsdb.Condition{ovsdb.NewCondition("_uuid", ovsdb.ConditionEqual, ovsdb.UUID{GoUUID: root.UUID})}
	results, err := s.transact(
		ctx,
		ovsdb.Operation{
			Op: ovsdb.OperationMutate, Table: tableRoot, Where: where,
			Mutations: []ovsdb.Mutation{{Column: "next_cfg", Mutator: ovsdb.MutateOperationAdd, Value: 1}},
		},
		ovsdb.Operation{Op: ovsdb.OperationSelect, Table: tableRoot, Where: where, Columns: []string{"next_cfg"}},
	)
	if err != nil {
		return fmt.Errorf("raise next_cfg: %w", err)
	}
	if len(results) < 2 || len(results[1].Rows) != 1 {
		return errors.New("OVSDB lost its Open_vSwitch row")
	}
	want := rowInt(results[1].Rows[0], "next_cfg")
	err = s.await(ctx, func() (bool, error) {
		r, err := sess.root()
		return err == nil && r.CurCfg >= want, err
	})
	if err != nil {
		return fmt.Errorf("%w: ovs-vswitchd did not make bridge %q; is it running? start it with `systemctl start openvswitch-switch`: %w",
			ErrUnavailable, s.cfg.Bridge, err)
	}
	return nil
}

// await waits until done returns true or an error, or until ctx ends. It calls done after
// each change of the cache and every 20 ms, because libovsdb may drop events.
func (s *Switch) await(ctx context.Context, done func() (bool, error)) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		next := s.wake.next()
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-next:
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
