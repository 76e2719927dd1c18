package cli

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/docker"
	"github.com/socketplane/socketplane/agent/powerstrip"
)

// legacyAddress is the address of the 2015 API. The agent of 2015 listened on this port on
// every address.
const legacyAddress = "127.0.0.1:6675"

// legacyHandler returns the handler of the 2015 API with its Powerstrip adapter.
func legacyHandler(s Settings, svc api.Service, place api.ClusterService, logger *slog.Logger) (http.Handler, error) {
	engine, err := docker.Dial("unix://" + s.Docker.Socket)
	if err != nil {
		return nil, err
	}
	adapter := powerstrip.NewAdapter(powerstrip.Config{Networks: svc, DockerNetwork: engine.AwaitNetwork, Logger: logger})
	return api.NewLegacyHandler(svc, place, adapter, logger), nil
}

// withLegacy serves both APIs on the agent's socket.
func withLegacy(own, legacy http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", own)
	mux.Handle("/v0.1/", legacy)
	mux.Handle("/adapter", legacy)
	mux.Handle("GET /v1/ping", legacy)
	return mux
}

// listenLegacy opens the port of the 2015 API. It is called before the agent's socket is
// opened, so that both APIs are available once the agent is.
func listenLegacy() (net.Listener, error) {
	l, err := net.Listen("tcp", legacyAddress)
	if err != nil {
		return nil, fmt.Errorf("api.legacy: %w; stop what listens there, or set it to false", err)
	}
	return l, nil
}

// netnsDir is where the agent of 2015 created a link for each container. The stop and rm
// commands of its script run `find -L` there, and fail if it does not exist.
const netnsDir = "/var/run/netns"

// makeNetNSDir creates netnsDir, as `ip netns` does.
func makeNetNSDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("api.legacy: directory for the scripts of 2015: %w", err)
	}
	return nil
}

// serveLegacy serves the 2015 API on loopback to programs of this host.
func serveLegacy(ctx context.Context, legacy http.Handler, l net.Listener) error {
	return serve(ctx, apiServer(api.NoBrowser(legacy, true, func(w http.ResponseWriter, status int, message string) {
		http.Error(w, message, status)
	})), l)
}
