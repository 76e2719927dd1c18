// Package driver owns Docker's own networks: the libnetwork network and IPAM driver that
// dockerd calls, and the Docker network that stands for each network of the cluster on
// this host. It requests everything from the agent through package api and stores no
// address and no interface itself. It never calls Docker's API while it handles a call
// from Docker.
package driver

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/docker"
)

// PluginSocket is the path where dockerd looks for the driver.
const PluginSocket = "/run/docker/plugins/" + docker.DriverName + ".sock"

// Service is the agent. It extends api.Service with methods that only Docker's users need.
type Service interface {
	api.Service
	// DeleteDockersNetwork deletes a network that was created through Docker and has this
	// subnet. It fails, and leaves the network alone, if the subnet differs.
	DeleteDockersNetwork(ctx context.Context, id string, subnet netip.Prefix) error
	// UsedElsewhere returns an error while other hosts have endpoints on a network.
	UsedElsewhere(ctx context.Context, id string) error
	// ReserveSubnet reserves a subnet on all hosts of the cluster for a network that
	// Docker is creating. With the zero Prefix it selects a free one.
	ReserveSubnet(ctx context.Context, subnet netip.Prefix) (netip.Prefix, error)
	// DockerSpec returns the options and labels with which a Docker user on any host
	// created the network with this subnet.
	DockerSpec(ctx context.Context, id string, subnet netip.Prefix) (api.DockerSpec, error)
	// KeepSubnets releases all subnets that this host has reserved, except these.
	KeepSubnets(ctx context.Context, subnets []netip.Prefix) error
}

// Config contains the dependencies of a Driver.
type Config struct {
	Service Service
	Docker  string          // address of dockerd, such as unix:///run/docker.sock
	Changed <-chan struct{} // receives a value when the networks of the cluster may have changed
	Logger  *slog.Logger
}

// Driver serves the calls of dockerd and keeps its networks in step with the cluster.
type Driver struct {
	Config
	known    *registry
	reserved *reserved
	joined   *joined
	owed     *owed
	kept     *kept
	doubted  map[string]time.Time // endpoints that Docker did not know at the last sweep, and since when; only Sweep uses it
	kick     chan struct{}        // receives a value to request a comparison of the networks
}

var _ docker.Follower = (*Driver)(nil)

// New returns a Driver. Its Handler serves dockerd, and its Run keeps the networks.
func New(cfg Config) *Driver {
	return &Driver{
		Config: cfg, known: newRegistry(), reserved: newReserved(), joined: newJoined(), owed: newOwed(), kept: newKept(),
		kick: make(chan struct{}, 1),
	}
}

// Handler returns the handler for dockerd's calls.
func (d *Driver) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /Plugin.Activate", serve(d, activate))
	// AllocateNetwork and FreeNetwork are missing because Docker calls them only for
	// drivers of global scope.
	for name, h := range map[string]http.Handler{
		"GetCapabilities":             serve(d, networkCapabilities),
		"CreateNetwork":               serve(d, d.createNetwork),
		"GwAllocCheck":                serve(d, gatewayCheck),
		"DeleteNetwork":               serve(d, d.deleteNetwork),
		"CreateEndpoint":              serve(d, d.createEndpoint),
		"EndpointOperInfo":            serve(d, operInfo),
		"DeleteEndpoint":              serve(d, d.deleteEndpoint),
		"Join":                        serve(d, d.join),
		"Leave":                       serve(d, d.leave),
		"ProgramExternalConnectivity": serve(d, d.publish),
		"RevokeExternalConnectivity":  serve(d, d.unpublish),
		"DiscoverNew":                 serve(d, nothing[anything]),
		"DiscoverDelete":              serve(d, nothing[anything]),
	} {
		mux.Handle("POST /NetworkDriver."+name, h)
	}
	for name, h := range map[string]http.Handler{
		"GetCapabilities":         serve(d, ipamCapabilities),
		"GetDefaultAddressSpaces": serve(d, addressSpaces),
		"RequestPool":             serve(d, d.requestPool),
		"ReleasePool":             serve(d, d.releasePool),
		"RequestAddress":          serve(d, d.requestAddress),
		"ReleaseAddress":          serve(d, d.releaseAddress),
	} {
		mux.Handle("POST /IpamDriver."+name, h)
	}
	return mux
}
