package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/socketplane/socketplane/agent/docker"
	"github.com/socketplane/socketplane/agent/unixsocket"
)

// Retire removes the Docker networks of this driver from the dockerd at host and returns
// their names. It disconnects containers from them first. The agent must not run, because
// it would create them again. Before dockerd removes a network, it calls the driver and
// waits for it. So Retire serves the plugin's socket in place of the agent while it works.
func Retire(ctx context.Context, host, socket string) (removed []string, err error) {
	engine, err := docker.Dial(host)
	if err != nil {
		return nil, err
	}
	defer engine.Close() //nolint:errcheck // only asked
	networks, err := engine.Networks(ctx)
	if err != nil {
		return nil, err
	}
	var ours []docker.Network
	for _, n := range networks {
		if n.Driver == docker.DriverName {
			ours = append(ours, n)
		}
	}
	if len(ours) == 0 {
		return nil, nil
	}
	stop, err := standIn(socket)
	if err != nil {
		return nil, err
	}
	defer stop()
	for _, n := range ours {
		endpoints, err := engine.NetworkEndpoints(ctx, n.ID)
		if err != nil {
			return removed, err
		}
		for _, container := range endpoints {
			if container == "" {
				continue
			}
			if err := engine.Disconnect(ctx, n.ID, container); err != nil {
				return removed, err
			}
		}
		if err := engine.RemoveNetwork(ctx, n.ID); err != nil {
			return removed, err
		}
		removed = append(removed, n.Name)
	}
	return removed, nil
}

// standIn answers every call of dockerd with success until stop is called. It fails if an
// agent serves the socket.
func standIn(socket string) (stop func(), err error) {
	l, err := unixsocket.Listen(socket, unixsocket.KeepGroup)
	if errors.Is(err, unixsocket.ErrAnswers) {
		return nil, fmt.Errorf("an agent answers on %s; stop it first: socketplane agent stop", socket)
	}
	if err != nil {
		return nil, err
	}
	server := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(standInAnswer)}
	go server.Serve(l) //nolint:errcheck // ends with stop
	return func() { _ = server.Close() }, nil
}

func standInAnswer(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", contentType)
	var body any = struct{}{}
	switch r.URL.Path {
	case "/Plugin.Activate":
		body = map[string][]string{"Implements": {"NetworkDriver", "IpamDriver"}}
	case "/NetworkDriver.GetCapabilities":
		body = map[string]string{"Scope": "local", "ConnectivityScope": "global"}
	}
	_ = json.NewEncoder(w).Encode(body) // dockerd may have gone
}
