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
	Subnet   netip.Prefix          // the first, if it has any
	Gateway  netip.Addr            // of that subnet
	Aux      map[string]netip.Addr // of that subnet: addresses that no container is given
	Options  map[string]string
	Labels   map[string]string
	Created  time.Time
}

// Networks lists Docker's networks, of every driver.
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

// Network inspects one; the zero Network when it is gone.
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

// NetworkSpec is a network that Docker is asked to make. Driver and IPAM driver
// have the same name.
type NetworkSpec struct {
	Name, Driver string
	Subnet       netip.Prefix
	Gateway      netip.Addr
	Aux          map[string]netip.Addr
	Options      map[string]string
	Labels       map[string]string
}

// CreateNetwork makes a network and gives its id.
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

// RemoveNetwork removes a network; one that is gone is no error.
func (e *Engine) RemoveNetwork(ctx context.Context, id string) error {
	if _, err := e.cli.NetworkRemove(ctx, id, client.NetworkRemoveOptions{}); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove docker network %s: %w", id, err)
	}
	return nil
}

// Disconnect takes a container off a network, also one that runs; one that is not
// on it, or gone, is no error.
func (e *Engine) Disconnect(ctx context.Context, network, container string) error {
	_, err := e.cli.NetworkDisconnect(ctx, network, client.NetworkDisconnectOptions{Container: container, Force: true})
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("take container %s off docker network %s: %w", container, network, err)
	}
	return nil
}

// NetworkEndpoints lists the endpoints of a network that Docker has, by id, each
// with the container that has joined it, or without one; none when the network is
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
		if strings.HasPrefix(container, "ep-") { // an endpoint that nobody has joined
			container = ""
		}
		endpoints[ep.EndpointID] = container
	}
	return endpoints, nil
}

// Container is what a container says of itself.
type Container struct {
	ID, Name  string
	Endpoints []string // ids, of the networks that it is on now
}

// Container inspects one; the zero Container when it is gone.
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
