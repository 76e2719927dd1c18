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

// legacyAddress is where the agent of 2015 listened; then on every address.
const legacyAddress = "127.0.0.1:6675"

// legacyHandler serves the API of 2015 with its Powerstrip adapter.
func legacyHandler(s Settings, svc api.Service, place api.ClusterService, logger *slog.Logger) (http.Handler, error) {
	engine, err := docker.Dial("unix://" + s.Docker.Socket)
	if err != nil {
		return nil, err
	}
	adapter := powerstrip.NewAdapter(powerstrip.Config{Networks: svc, DockerNetwork: engine.AwaitNetwork, Logger: logger})
	return api.NewLegacyHandler(svc, place, adapter, logger), nil
}

// withLegacy serves both APIs of the agent's socket.
func withLegacy(own, legacy http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", own)
	mux.Handle("/v0.1/", legacy)
	mux.Handle("/adapter", legacy)
	mux.Handle("GET /v1/ping", legacy)
	return mux
}

// listenLegacy opens the port of 2015. It comes before the agent's socket: who
// sees the agent ready can call both.
func listenLegacy() (net.Listener, error) {
	l, err := net.Listen("tcp", legacyAddress)
	if err != nil {
		return nil, fmt.Errorf("api.legacy: %w; stop what listens there, or set it to false", err)
	}
	return l, nil
}

// netnsDir is where the agent of 2015 put a link for each container. Its script's
// stop and rm run `find -L` there, and fail where it does not exist.
const netnsDir = "/var/run/netns"

// makeNetNSDir makes that directory, as `ip netns` would.
func makeNetNSDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("api.legacy: directory for the scripts of 2015: %w", err)
	}
	return nil
}

// serveLegacy serves the API of 2015 on loopback, to programs of this host.
func serveLegacy(ctx context.Context, legacy http.Handler, l net.Listener) error {
	return serve(ctx, apiServer(api.NoBrowser(legacy, true, func(w http.ResponseWriter, status int, message string) {
		http.Error(w, message, status)
	})), l)
}
