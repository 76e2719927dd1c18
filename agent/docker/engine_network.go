package docker

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
)

// Network is one of Docker's networks on this host.
type Network struct {
	ID, Name string
	Driver   string
	Subnet   netip.Prefix          // the first one, if any
	Gateway  netip.Addr            // of that subnet
	Aux      map[string]netip.Addr // of that subnet: addresses that no container gets
	Options  map[string]string
	Labels   map[string]string
	Created  time.Time
}

// Networks lists all networks of Docker, whatever their driver.
func (e *Engine) Networks(ctx context.Context) ([]Network, error) {
	got, err := e.cli.NetworkList(ctx, client.NetworkListOptions{})
	if err != nil {
		return nil, fmt.Errorf("docker's networks: %w", err)
	}
	var list []Network
	for _, n := range got.Items {
		list = append(list, networkOf(n.Network))
	}
	return list, nil
}

func networkOf(n network.Network) Network {
	out := Network{ID: n.ID, Name: n.Name, Driver: n.Driver, Options: n.Options, Labels: n.Labels, Created: n.Created}
	if len(n.IPAM.Config) > 0 {
		out.Subnet, out.Gateway, out.Aux = n.IPAM.Config[0].Subnet, n.IPAM.Config[0].Gateway, n.IPAM.Config[0].AuxAddress
	}
	return out
}

// Network returns one network, or the zero Network if it is gone.
func (e *Engine) Network(ctx context.Context, id string) (Network, error) {
	got, err := e.cli.NetworkInspect(ctx, id, client.NetworkInspectOptions{})
	if errdefs.IsNotFound(err) {
		return Network{}, nil
	}
	if err != nil {
		return Network{}, fmt.Errorf("inspect docker network %s: %w", id, err)
	}
	return networkOf(got.Network.Network), nil
}

// NetworkSpec describes a network to create. Driver is the name of both the network driver
// and the IPAM driver.
type NetworkSpec struct {
	Name, Driver string
	Subnet       netip.Prefix
	Gateway      netip.Addr
	Aux          map[string]netip.Addr
	Options      map[string]string
	Labels       map[string]string
}

// CreateNetwork creates a network and returns its id.
func (e *Engine) CreateNetwork(ctx context.Context, n NetworkSpec) (string, error) {
	got, err := e.cli.NetworkCreate(ctx, n.Name, client.NetworkCreateOptions{
		Driver: n.Driver, Options: n.Options, Labels: n.Labels,
		IPAM: &network.IPAM{Driver: n.Driver, Config: []network.IPAMConfig{{Subnet: n.Subnet, Gateway: n.Gateway, AuxAddress: n.Aux}}},
	})
	if err != nil {
		return "", fmt.Errorf("make docker network %q: %w", n.Name, err)
	}
	return got.ID, nil
}

// RemoveNetwork removes a network. It succeeds if the network is gone.
func (e *Engine) RemoveNetwork(ctx context.Context, id string) error {
	if _, err := e.cli.NetworkRemove(ctx, id, client.NetworkRemoveOptions{}); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove docker network %s: %w", id, err)
	}
	return nil
}

// Disconnect disconnects a container from a network, even if it is running. It succeeds if
// the container is not on the network or is gone.
func (e *Engine) Disconnect(ctx context.Context, network, container string) error {
	_, err := e.cli.NetworkDisconnect(ctx, network, client.NetworkDisconnectOptions{Container: container, Force: true})
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("take container %s off docker network %s: %w", container, network, err)
	}
	return nil
}

// NetworkEndpoints returns the container of each endpoint of a network, by endpoint id.
// The container is "" if none has joined the endpoint. The map is nil if the network is
// gone.
func (e *Engine) NetworkEndpoints(ctx context.Context, id string) (map[string]string, error) {
	got, err := e.cli.NetworkInspect(ctx, id, client.NetworkInspectOptions{})
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("inspect docker network %s: %w", id, err)
	}
	endpoints := map[string]string{}
	for container, ep := range got.Network.Containers {
		if strings.HasPrefix(container, "ep-") { // an endpoint that no container has joined
			container = ""
		}
		endpoints[ep.EndpointID] = container
	}
	return endpoints, nil
}

// Container is the part of a container's description that the agent uses.
type Container struct {
	ID, Name  string
	Endpoints []string // ids, of the networks that it is on now
}

// Container returns one container, or the zero Container if it is gone.
func (e *Engine) Container(ctx context.Context, id string) (Container, error) {
	got, err := e.cli.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if errdefs.IsNotFound(err) {
		return Container{}, nil
	}
	if err != nil {
		return Container{}, fmt.Errorf("inspect container %s: %w", id, err)
	}
	c := Container{ID: got.Container.ID, Name: strings.TrimPrefix(got.Container.Name, "/")}
	if got.Container.NetworkSettings == nil {
		return c, nil
	}
	for _, ep := range got.Container.NetworkSettings.Networks {
		if ep != nil && ep.EndpointID != "" {
			c.Endpoints = append(c.Endpoints, ep.EndpointID)
		}
	}
	return c, nil
}
