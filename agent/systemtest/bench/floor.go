package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"time"

	"github.com/go-logr/logr"
	"github.com/hashicorp/consul/api"
	"github.com/ovn-org/libovsdb/client"
	"github.com/ovn-org/libovsdb/model"
	"github.com/ovn-org/libovsdb/ovsdb"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// floorBridge is a bridge of the floor's own on the same switch.
const floorBridge = "br-floor"

// floor does the bare steps of an attach, one after the other, with the same
// libraries and nothing around them. It is what an attach cannot go below
// unless steps overlap.
type floor struct {
	db     client.Client
	kv     *api.KV
	txn    *api.Txn
	index  map[string]uint64 // of each key
	bridge string            // UUID
	port   string            // UUID of the port of the last attach
}

type bridgeRow struct {
	UUID  string   `ovsdb:"_uuid"`
	Name  string   `ovsdb:"name"`
	Ports []string `ovsdb:"ports"`
}

type interfaceRow struct {
	UUID   string  `ovsdb:"_uuid"`
	Name   string  `ovsdb:"name"`
	OFPort *int    `ovsdb:"ofport"`
	Error  *string `ovsdb:"error"`
}

const (
	floorAddress  = "floor/address"
	floorEndpoint = "floor/endpoint"
	floorVeth     = "floor0"
	floorPeer     = "floor1"
)

// newFloor connects to the host's own switch and Consul.
func newFloor(ctx context.Context) (*floor, error) {
	if out, err := exec.CommandContext(ctx, "ovs-vsctl", "-t", "5", "--may-exist", "add-br", floorBridge, "--",
		"set", "bridge", floorBridge, "datapath_type=netdev", "fail_mode=secure").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("bridge of the floor: %w: %s", err, out)
	}
	schema, err := model.NewClientDBModel("Open_vSwitch", map[string]model.Model{"Bridge": &bridgeRow{}, "Interface": &interfaceRow{}})
	if err != nil {
		return nil, err
	}
	quiet := logr.Discard()
	db, err := client.NewOVSDBClient(schema, client.WithEndpoint("unix:/run/openvswitch/db.sock"), client.WithLogger(&quiet))
	if err != nil {
		return nil, err
	}
	if err := db.Connect(ctx); err != nil {
		return nil, fmt.Errorf("connect to ovsdb-server: %w", err)
	}
	b, i := &bridgeRow{}, &interfaceRow{}
	if _, err := db.Monitor(ctx, db.NewMonitor(
		client.WithTable(b, &b.Name, &b.Ports), client.WithTable(i, &i.Name, &i.OFPort, &i.Error))); err != nil {
		return nil, fmt.Errorf("monitor: %w", err)
	}
	var bridges []bridgeRow
	if err := db.WhereCache(func(b *bridgeRow) bool { return b.Name == floorBridge }).List(ctx, &bridges); err != nil || len(bridges) != 1 {
		return nil, fmt.Errorf("bridge of the floor is not there: %w", err)
	}
	consul, err := api.NewClient(&api.Config{Address: "http://127.0.0.1:8500"})
	if err != nil {
		return nil, err
	}
	return &floor{
		db: db, kv: consul.KV(), txn: consul.Txn(), index: map[string]uint64{}, bridge: bridges[0].UUID,
	}, nil
}

// close takes away what the floor made on the host.
func (f *floor) close() error {
	f.db.Close()
	out, err := exec.Command("ovs-vsctl", "-t", "5", "--if-exists", "del-br", floorBridge).CombinedOutput()
	if err != nil {
		return fmt.Errorf("bridge of the floor: %w: %s", err, out)
	}
	_, err = f.kv.DeleteTree("floor/", nil)
	return err
}

// attach is the bare way up. ns is an open network namespace.
func (f *floor) attach(ctx context.Context, ns netns.NsHandle) error {
	if err := bareVeth(ns); err != nil {
		return err
	}
	ofport, err := f.addPort(ctx)
	if err != nil {
		return err
	}
	for _, key := range []string{floorAddress, floorEndpoint} {
		if err := f.write(key, []byte(`{"version":1,"owners":{"10.6.0.2":"floor"}}`)); err != nil {
			return err
		}
	}
	return f.flows(ctx, "add-flows", fmt.Sprintf("table=1,priority=100,in_port=%d,ip,nw_src=10.6.0.2 actions=drop\n"+
		"table=4,priority=100,reg0=1,dl_dst=02:42:0a:06:00:02 actions=output:%d\n", ofport, ofport))
}

// detach is the bare way down.
func (f *floor) detach(ctx context.Context) error {
	ops := []ovsdb.Operation{{
		Op: ovsdb.OperationMutate, Table: "Bridge",
		Where: []ovsdb.Condition{ovsdb.NewCondition("_uuid", ovsdb.ConditionEqual, ovsdb.UUID{GoUUID: f.bridge})},
		Mutations: []ovsdb.Mutation{*ovsdb.NewMutation("ports", ovsdb.MutateOperationDelete,
			ovsdb.OvsSet{GoSet: []any{ovsdb.UUID{GoUUID: f.port}}})},
	}}
	if _, err := f.transact(ctx, ops); err != nil {
		return err
	}
	if err := netlink.LinkDel(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: floorVeth}}); err != nil {
		return fmt.Errorf("delete veth: %w", err)
	}
	for _, key := range []string{floorAddress, floorEndpoint} {
		if err := f.write(key, []byte(`{"version":1,"owners":{}}`)); err != nil {
			return err
		}
	}
	return f.flows(ctx, "del-flows", "table=1,in_port=1\ntable=4,dl_dst=02:42:0a:06:00:02\n")
}

// bareVeth makes a pair with its peer in ns, up and with an address.
func bareVeth(ns netns.NsHandle) error {
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: floorVeth, MTU: 1450, Flags: net.FlagUp},
		PeerName:  floorPeer, PeerNamespace: netlink.NsFd(ns),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make veth: %w", err)
	}
	inside, err := netlink.NewHandleAt(ns)
	if err != nil {
		return err
	}
	defer inside.Close()
	peer, err := inside.LinkByName(floorPeer)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr("10.6.0.2/16")
	if err != nil {
		return err
	}
	return errors.Join(inside.AddrAdd(peer, addr), inside.LinkSetUp(peer))
}

// addPort adds the port in one transaction and waits until it is live.
func (f *floor) addPort(ctx context.Context) (int, error) {
	ops := []ovsdb.Operation{
		{Op: ovsdb.OperationInsert, Table: "Interface", UUIDName: "i", Row: ovsdb.Row{"name": floorVeth}},
		{Op: ovsdb.OperationInsert, Table: "Port", UUIDName: "p", Row: ovsdb.Row{
			"name": floorVeth, "interfaces": ovsdb.OvsSet{GoSet: []any{ovsdb.UUID{GoUUID: "i"}}},
		}},
		{
			Op: ovsdb.OperationMutate, Table: "Bridge",
			Where: []ovsdb.Condition{ovsdb.NewCondition("_uuid", ovsdb.ConditionEqual, ovsdb.UUID{GoUUID: f.bridge})},
			Mutations: []ovsdb.Mutation{*ovsdb.NewMutation("ports", ovsdb.MutateOperationInsert,
				ovsdb.OvsSet{GoSet: []any{ovsdb.UUID{GoUUID: "p"}}})},
		},
	}
	results, err := f.transact(ctx, ops)
	if err != nil {
		return 0, err
	}
	f.port = results[1].UUID.GoUUID
	tick := time.NewTicker(100 * time.Microsecond) // the finest poll that leaves the switch its core
	defer tick.Stop()
	for ctx.Err() == nil {
		var rows []interfaceRow
		err := f.db.WhereCache(func(i *interfaceRow) bool { return i.UUID == results[0].UUID.GoUUID }).List(ctx, &rows)
		if err != nil {
			return 0, err
		}
		if len(rows) == 1 && rows[0].OFPort != nil {
			return *rows[0].OFPort, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	return 0, ctx.Err()
}

func (f *floor) transact(ctx context.Context, ops []ovsdb.Operation) ([]ovsdb.OperationResult, error) {
	results, err := f.db.Transact(ctx, ops...)
	if err != nil {
		return nil, err
	}
	_, err = ovsdb.CheckOperationResults(results, ops)
	return results, err
}

// write is one compare-and-set, as a transaction since that tells the new index.
func (f *floor) write(key string, value []byte) error {
	op := &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVCAS, Key: key, Value: value, Index: f.index[key]}}
	ok, resp, _, err := f.txn.Txn(api.TxnOps{op}, nil)
	if err != nil || !ok {
		return fmt.Errorf("compare-and-set of %s: %t, %w", key, ok, err)
	}
	f.index[key] = resp.Results[0].KV.ModifyIndex
	return nil
}

func (f *floor) flows(ctx context.Context, verb, lines string) error {
	cmd := exec.CommandContext(ctx, "ovs-ofctl", "-O", "OpenFlow14", verb, floorBridge, "-")
	cmd.Stdin = bytes.NewBufferString(lines)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", verb, err, out)
	}
	return nil
}
