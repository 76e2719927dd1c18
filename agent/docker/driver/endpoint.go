package driver

import (
	"context"
	"encoding/json"
	"net/netip"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/docker"
)

type endpointRef struct{ NetworkID, EndpointID string }

type endpointRequest struct {
	endpointRef
	Interface *endpointInterface
	Options   map[string]json.RawMessage
}

type endpointInterface struct{ Address, AddressIPv6, MacAddress string }

type endpointAnswer struct{ Interface endpointInterface }

// createEndpoint makes the address that Docker was given the endpoint's. What
// Docker did not choose is told: the MAC address.
func (d *Driver) createEndpoint(ctx context.Context, req endpointRequest) (endpointAnswer, error) {
	if req.Interface == nil || req.Interface.Address == "" {
		return endpointAnswer{}, api.Errorf(api.CodeInvalid, "the endpoint has no address; the network needs --ipam-driver %s", docker.DriverName)
	}
	if req.Interface.AddressIPv6 != "" {
		return endpointAnswer{}, api.Errorf(api.CodeInvalid, "networks are IPv4; leave out the IPv6 address")
	}
	wish, err := endpointOptions(req.Options)
	if err != nil {
		return endpointAnswer{}, err
	}
	addr, err := netip.ParsePrefix(req.Interface.Address)
	if err != nil {
		return endpointAnswer{}, api.Errorf(api.CodeInvalid, "address %.40q of the endpoint is not a CIDR", req.Interface.Address)
	}
	var e api.Endpoint
	// Before it is there: whoever gives the address back now means another endpoint.
	d.known.begun(req.EndpointID)
	err = d.onNetwork(ctx, addr.Masked(), func(network string) (err error) {
		e, err = d.Service.Reserve(ctx, api.ReserveRequest{
			ID: req.EndpointID, Network: network, IP: addr.Addr().String(), MAC: req.Interface.MacAddress, Source: api.SourceDriver,
			AllowAddresses: wish.allow, Forwarding: wish.forwarding,
		})
		return err
	})
	if err == nil {
		err = d.inTime(ctx, req.EndpointID)
	}
	if err != nil {
		d.known.settled(req.EndpointID)
		return endpointAnswer{}, err
	}
	d.kept.begun(req.EndpointID, addr)
	var answer endpointAnswer
	if req.Interface.MacAddress == "" { // Docker takes no answer to what it has chosen itself
		answer.Interface.MacAddress = e.MAC
	}
	return answer, nil
}

// inTime fails when a call that made something of an endpoint has ended too late:
// Docker has been told that it failed, or is about to be, and may have asked for
// the endpoint's end already. It is ended from here.
func (d *Driver) inTime(ctx context.Context, endpoint string) error {
	if ctx.Err() == nil {
		return nil
	}
	d.owed.add(endpoint)
	return errLate
}

// detachPatience is how long deleteEndpoint waits for what goes on with the same
// endpoint: a Join that failed, say, and is being taken back.
const detachPatience = time.Second

// deleteEndpoint takes the interface away. The address goes when Docker gives it
// back, which it does next; until then nobody may be given it. Docker goes on also
// when this fails, and does not ask again: then all of it is owed.
func (d *Driver) deleteEndpoint(ctx context.Context, req endpointRef) (empty, error) {
	ctx, cancel := context.WithTimeout(ctx, detachPatience)
	defer cancel()
	d.takePortsBack(ctx, req.EndpointID)
	err := d.Service.Detach(ctx, req.EndpointID)
	if err != nil && !final(err) {
		d.owed.add(req.EndpointID)
	}
	if err == nil || !final(err) {
		d.known.settled(req.EndpointID)
	}
	return empty{}, err
}

type information struct{ Value map[string]any }

func operInfo(context.Context, anything) (information, error) {
	return information{Value: map[string]any{}}, nil
}

type joinRequest struct {
	endpointRef
	SandboxKey string // path of the container's network namespace
}

type joinAnswer struct {
	InterfaceName interfaceName
	Gateway       string
}

// interfaceName: Docker moves SrcName into the namespace and calls it DstPrefix
// and a number.
type interfaceName struct{ SrcName, DstPrefix string }

func (d *Driver) join(ctx context.Context, req joinRequest) (joinAnswer, error) {
	e, err := d.Service.Attach(ctx, api.AttachRequest{
		ID: req.EndpointID, Source: api.SourceDriver, NetNS: req.SandboxKey, HandOver: true,
	})
	if err != nil {
		return joinAnswer{}, err
	}
	d.known.settled(req.EndpointID)
	if err := d.inTime(ctx, req.EndpointID); err != nil {
		return joinAnswer{}, err
	}
	return joinAnswer{InterfaceName: interfaceName{SrcName: e.Peer, DstPrefix: "eth"}, Gateway: e.Gateway.String()}, nil
}
