package docker

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/moby/moby/client"
)

// NamedAddress is an address that a container requests by name (--ip). It is part of the
// container's configuration, so Docker requests it at every start.
type NamedAddress struct {
	Container, Name string // id and name
	Network         string // Docker's name of the network, or its id if the user gave the id
	NetworkID       string // empty before the first start
	Endpoint        string // empty while the container is stopped
	IP              netip.Addr
}

// NamedAddresses lists the addresses that Docker's containers request by name, including
// those of stopped containers.
func (e *Engine) NamedAddresses(ctx context.Context) ([]NamedAddress, error) {
	return e.namedAddresses(ctx, nil)
}

// NamedAddressesOf is like NamedAddresses, but only for those of the given containers that
// have never run.
func (e *Engine) NamedAddressesOf(ctx context.Context, ids []string) ([]NamedAddress, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	return e.namedAddresses(ctx, make(client.Filters).Add("status", "created").Add("id", ids...))
}

func (e *Engine) namedAddresses(ctx context.Context, filters client.Filters) ([]NamedAddress, error) {
	got, err := e.cli.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: filters})
	if err != nil {
		return nil, fmt.Errorf("docker's containers: %w", err)
	}
	var list []NamedAddress
	for _, c := range got.Items {
		if c.NetworkSettings == nil {
			continue
		}
		for network, ep := range c.NetworkSettings.Networks {
			if ep == nil || ep.IPAMConfig == nil || !ep.IPAMConfig.IPv4Address.IsValid() {
				continue
			}
			list = append(list, NamedAddress{
				Container: c.ID, Name: nameOf(c.Names), Network: network, NetworkID: ep.NetworkID, Endpoint: ep.EndpointID,
				IP: ep.IPAMConfig.IPv4Address,
			})
		}
	}
	return list, nil
}
