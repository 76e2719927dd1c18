package driver

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/socketplane/socketplane/agent/api"
)

type publishRequest struct {
	endpointRef
	Options map[string]json.RawMessage
}

// optionPortMap is the option that contains the ports to publish.
const optionPortMap = "com.docker.network.portmap"

// binding is one published port as Docker encodes it (libnetwork, types.PortBinding).
type binding struct {
	Proto       uint8  // IANA protocol number
	Port        uint16 // of the container
	HostIP      string
	HostPort    uint16 // 0: any
	HostPortEnd uint16 // last port of the range to select from; 0: HostPort
}

func (b binding) mapping() (api.PortMapping, error) {
	m := api.PortMapping{HostPort: b.HostPort, ContainerPort: b.Port}
	switch b.Proto {
	case unix.IPPROTO_TCP:
		m.Proto = api.ProtoTCP
	case unix.IPPROTO_UDP:
		m.Proto = api.ProtoUDP
	default:
		return m, api.Errorf(api.CodeInvalid, "a published port is tcp or udp; protocol %d cannot be used", b.Proto)
	}
	if b.HostIP == "" {
		return m, nil
	}
	ip, err := netip.ParseAddr(b.HostIP)
	if err != nil {
		return m, api.Errorf(api.CodeInvalid, "address %.40q of a published port is none", b.HostIP)
	}
	m.HostIP = ip.Unmap()
	return m, nil
}

// isIPv6 reports whether a binding is to an IPv6 address of the host.
func (b binding) isIPv6() bool {
	ip, err := netip.ParseAddr(b.HostIP)
	return err == nil && ip.Unmap().Is6()
}

// onlyIPv4 drops the IPv6 binding of a port that is published on both families: some
// Docker versions send two bindings for it. It fails for a port that is published on IPv6
// alone. Publishing that port on IPv4 instead would open what no one asked to open.
func onlyIPv4(bindings []binding) ([]binding, error) {
	var list []binding
	for _, b := range bindings {
		if !b.isIPv6() {
			list = append(list, b)
		}
	}
	for _, b := range bindings {
		twin := func(other binding) bool {
			return other.Proto == b.Proto && other.Port == b.Port && other.HostPort == b.HostPort && other.HostPortEnd == b.HostPortEnd
		}
		if b.isIPv6() && (b.HostIP != "::" || !slices.ContainsFunc(list, twin)) {
			return nil, api.Errorf(api.CodeInvalid,
				"port %d cannot be published on [%s]: ports are published on IPv4; leave the address out, or give an IPv4 address of this host", b.HostPort, b.HostIP)
		}
	}
	return list, nil
}

// publish publishes the ports of an endpoint. For a range, it tries one port after the
// other. Docker 28 and newer repeat the call when the networks of the container change. In
// that case publish keeps the ports that it selected before.
func (d *Driver) publish(ctx context.Context, req publishRequest) (empty, error) {
	raw, ok := req.Options[optionPortMap]
	if !ok {
		return empty{}, nil
	}
	var bindings []binding
	if err := json.Unmarshal(raw, &bindings); err != nil {
		return empty{}, api.Errorf(api.CodeInvalid, "published ports: %w", err)
	}
	if len(bindings) == 0 {
		return empty{}, nil
	}
	if len(bindings) > api.MaxPorts {
		return empty{}, api.Errorf(api.CodeInvalid, "%d published ports are too many; %d is the most", len(bindings), api.MaxPorts)
	}
	bindings, err := onlyIPv4(bindings)
	if err != nil {
		return empty{}, err
	}
	var ports []api.PortMapping
	var ranged []binding
	chosen := d.chosen(ctx, req.EndpointID)
	for _, b := range bindings {
		m, err := b.mapping()
		if err != nil {
			return empty{}, err
		}
		if b.isRange() {
			again := slices.IndexFunc(chosen, func(p api.PortMapping) bool { return b.covers(m, p) })
			if again < 0 {
				ranged = append(ranged, b)
				continue
			}
			m.HostPort = chosen[again].HostPort
			chosen = slices.Delete(chosen, again, again+1) // two bindings may have the same range
		}
		ports = append(ports, m)
	}
	if _, err := d.Service.Publish(ctx, req.EndpointID, ports); err != nil {
		return empty{}, err
	}
	for _, b := range ranged {
		var err error
		if ports, err = d.publishOneOf(ctx, req.EndpointID, ports, b); err != nil {
			return empty{}, err
		}
	}
	return empty{}, nil
}

// chosen returns the ports that an endpoint has published. It returns none if the endpoint
// does not exist.
func (d *Driver) chosen(ctx context.Context, id string) []api.PortMapping {
	e, err := d.Service.Endpoint(ctx, id)
	if err != nil || e.ID != id {
		return nil // Publish reports the error
	}
	return slices.Clone(e.Ports)
}

func (b binding) isRange() bool { return b.HostPort > 0 && b.HostPortEnd > b.HostPort }

// covers reports whether p is a choice that b allows. m is b as a mapping.
func (b binding) covers(m, p api.PortMapping) bool {
	anyOf := func(ip netip.Addr) netip.Addr {
		if !ip.IsValid() {
			return netip.IPv4Unspecified()
		}
		return ip
	}
	return p.Proto == m.Proto && p.ContainerPort == m.ContainerPort && anyOf(p.HostIP) == anyOf(m.HostIP) &&
		b.HostPort <= p.HostPort && p.HostPort <= b.HostPortEnd
}

// publishOneOf adds the first free port of a range.
func (d *Driver) publishOneOf(ctx context.Context, id string, ports []api.PortMapping, b binding) ([]api.PortMapping, error) {
	last := b.HostPortEnd
	for port := uint32(b.HostPort); port <= uint32(last); port++ {
		b.HostPort = uint16(port)
		m, err := b.mapping()
		if err != nil {
			return nil, err
		}
		_, err = d.Service.Publish(ctx, id, append(ports[:len(ports):len(ports)], m))
		switch {
		case err == nil:
			return append(ports, m), nil
		case api.CodeOf(err) != api.CodeConflict:
			return nil, err
		}
	}
	return nil, fmt.Errorf("no port of the range up to %d is free", last)
}

type leaveRequest struct{ endpointRef }

// leave withdraws the ports of an endpoint whose container leaves it. Docker calls
// RevokeExternalConnectivity before, but not if dockerd found the container running at its
// own start (live-restore).
func (d *Driver) leave(ctx context.Context, req leaveRequest) (empty, error) {
	d.takePortsBack(ctx, req.EndpointID)
	return empty{}, nil
}

// takePortsBack withdraws the ports that an endpoint still publishes. Docker proceeds even
// if this fails, and the ports lead nowhere once the endpoint is detached.
func (d *Driver) takePortsBack(ctx context.Context, endpoint string) {
	if len(d.chosen(ctx, endpoint)) == 0 {
		return
	}
	if _, err := d.unpublish(ctx, endpointRef{EndpointID: endpoint}); err != nil {
		d.Logger.Warn("published ports are not taken back yet", "endpoint", endpoint, "err", err)
	}
}

// unpublish withdraws the ports of an endpoint. It succeeds if the endpoint is gone.
func (d *Driver) unpublish(ctx context.Context, req endpointRef) (empty, error) {
	_, err := d.Service.Publish(ctx, req.EndpointID, nil)
	if api.CodeOf(err) == api.CodeNotFound {
		err = nil
	}
	return empty{}, err
}
