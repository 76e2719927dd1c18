package ovs

import (
	"github.com/ovn-org/libovsdb/client"
	"github.com/ovn-org/libovsdb/model"
)

// The tables and columns of the Open_vSwitch database that we read; see
// ovs-vswitchd.conf.db(5). The monitor requests only these columns. libovsdb would drop a
// whole update with a column that is not in the model, and statistics would wake us every
// 5 s.
const (
	dbName         = "Open_vSwitch"
	tableRoot      = "Open_vSwitch"
	tableBridge    = "Bridge"
	tablePort      = "Port"
	tableInterface = "Interface"
)

type rootRow struct {
	UUID          string   `ovsdb:"_uuid"`
	Bridges       []string `ovsdb:"bridges"`
	CurCfg        int      `ovsdb:"cur_cfg"`
	NextCfg       int      `ovsdb:"next_cfg"`
	DatapathTypes []string `ovsdb:"datapath_types"`
}

type bridgeRow struct {
	UUID         string            `ovsdb:"_uuid"`
	Name         string            `ovsdb:"name"`
	Ports        []string          `ovsdb:"ports"`
	FailMode     *string           `ovsdb:"fail_mode"`
	DatapathType string            `ovsdb:"datapath_type"`
	Controller   []string          `ovsdb:"controller"`
	STPEnable    bool              `ovsdb:"stp_enable"`
	ExternalIDs  map[string]string `ovsdb:"external_ids"`
}

type portRow struct {
	UUID        string            `ovsdb:"_uuid"`
	Name        string            `ovsdb:"name"`
	Interfaces  []string          `ovsdb:"interfaces"`
	Tag         *int              `ovsdb:"tag"`
	ExternalIDs map[string]string `ovsdb:"external_ids"`
}

type interfaceRow struct {
	UUID          string            `ovsdb:"_uuid"`
	Name          string            `ovsdb:"name"`
	Type          string            `ovsdb:"type"`
	MAC           *string           `ovsdb:"mac"`
	MTURequest    *int              `ovsdb:"mtu_request"`
	Options       map[string]string `ovsdb:"options"`
	OFPort        *int              `ovsdb:"ofport"`
	OFPortRequest *int              `ovsdb:"ofport_request"`
	Error         *string           `ovsdb:"error"`
}

func databaseModel() (model.ClientDBModel, error) {
	return model.NewClientDBModel(dbName, map[string]model.Model{
		tableRoot:      &rootRow{},
		tableBridge:    &bridgeRow{},
		tablePort:      &portRow{},
		tableInterface: &interfaceRow{},
	})
}

// monitored returns the monitor options for all columns of the model.
func monitored() []client.MonitorOption {
	r, b, p, i := &rootRow{}, &bridgeRow{}, &portRow{}, &interfaceRow{}
	return []client.MonitorOption{
		client.WithTable(r, &r.Bridges, &r.CurCfg, &r.NextCfg, &r.DatapathTypes),
		client.WithTable(b, &b.Name, &b.Ports, &b.FailMode, &b.DatapathType, &b.Controller, &b.STPEnable, &b.ExternalIDs),
		client.WithTable(p, &p.Name, &p.Interfaces, &p.Tag, &p.ExternalIDs),
		client.WithTable(i, &i.Name, &i.Type, &i.MAC, &i.MTURequest, &i.Options, &i.OFPort, &i.OFPortRequest, &i.Error),
	}
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
