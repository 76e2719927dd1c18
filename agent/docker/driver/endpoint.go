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

// createEndpoint assigns the address that Docker was given to the endpoint. It returns the
// MAC address if Docker did not choose one.
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
	// Must precede Reserve: until the endpoint is settled, a released address belongs to
	// another endpoint.
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
	if req.Interface.MacAddress == "" { // Docker rejects a value that it has chosen itself
		answer.Interface.MacAddress = e.MAC
	}
	return answer, nil
}

// inTime returns an error if a call that changed an endpoint has ended too late. By then
// Docker considers the call failed and may already have deleted the endpoint, so inTime
// schedules its release.
func (d *Driver) inTime(ctx context.Context, endpoint string) error {
	if ctx.Err() == nil {
		return nil
	}
	d.owed.add(endpoint)
	return errLate
}

// detachPatience bounds how long deleteEndpoint waits for another operation on the same
// endpoint, such as the rollback of a failed Join.
const detachPatience = time.Second

// deleteEndpoint removes the interface. The address stays reserved until Docker releases
// it, which is Docker's next call. Docker proceeds even if deleteEndpoint fails, and does
// not call it again. In that case the driver retries until the whole endpoint is released.
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

// interfaceName tells Docker to move interface SrcName into the namespace and to name it
// DstPrefix followed by a number.
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
