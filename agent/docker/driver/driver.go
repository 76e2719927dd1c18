// Package driver owns Docker's own networks: the libnetwork network and IPAM
// driver that dockerd calls, and the Docker network that stands for each network
// of the cluster on this host. It asks the agent for everything through the api;
// it keeps no address and no interface itself, and never calls Docker's API from
// within a call of Docker's.
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

// PluginSocket is where dockerd looks for the driver.
const PluginSocket = "/run/docker/plugins/" + docker.DriverName + ".sock"

// Service is the agent. What only Docker's users cause is not part of its api.
type Service interface {
	api.Service
	// DeleteDockersNetwork deletes a network that was made through Docker, with
	// this subnet; another of the name stays, with an error.
	DeleteDockersNetwork(ctx context.Context, id string, subnet netip.Prefix) error
	// UsedElsewhere fails while other hosts have endpoints on a network.
	UsedElsewhere(ctx context.Context, id string) error
	// ReserveSubnet keeps a subnet, or with the zero Prefix any that is free, for a
	// network that Docker is making, against every host of the cluster.
	ReserveSubnet(ctx context.Context, subnet netip.Prefix) (netip.Prefix, error)
	// DockerSpec gives the options and labels with which a user of Docker made a network
	// with this subnet, on whatever host.
	DockerSpec(ctx context.Context, id string, subnet netip.Prefix) (api.DockerSpec, error)
	// KeepSubnets gives up what this host has reserved, but for these.
	KeepSubnets(ctx context.Context, subnets []netip.Prefix) error
}

// Config says with what a Driver works.
type Config struct {
	Service Service
	Docker  string          // where dockerd answers, such as unix:///run/docker.sock
	Changed <-chan struct{} // receives when the networks of the cluster may have changed
	Logger  *slog.Logger
}

// Driver serves dockerd and keeps its networks.
type Driver struct {
	Config
	known    *registry
	reserved *reserved
	joined   *joined
	owed     *owed
	kept     *kept
	doubted  map[string]time.Time // endpoints that Docker did not know at the last sweep, and since when; only Sweep uses it
	kick     chan struct{}        // compare the networks soon
}

var _ docker.Follower = (*Driver)(nil)

// New makes a Driver. Handler serves dockerd, Run keeps the networks.
func New(cfg Config) *Driver {
	return &Driver{
		Config: cfg, known: newRegistry(), reserved: newReserved(), joined: newJoined(), owed: newOwed(), kept: newKept(),
		kick: make(chan struct{}, 1),
	}
}

// Handler answers dockerd's calls.
func (d *Driver) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /Plugin.Activate", serve(d, activate))
	// Not here: AllocateNetwork and FreeNetwork, which Docker calls of drivers of
	// global scope.
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
