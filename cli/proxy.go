package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/docker"
	"github.com/socketplane/socketplane/agent/powerstrip"
)

func (a *app) proxyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "proxy [--listen ADDR]",
		Short: "Serve Docker's API, with networks chosen by a container's environment",
		Long: `Listens like dockerd and passes everything on to it, including streams. A container
that is created through it with one of these variables is on that network before its
process runs:

  SOCKETPLANE_CIDR=10.0.6.1/24  the network with subnet 10.0.6.0/24. If there is none,
                                it is created with this address as its gateway.
  SP_NETWORK=web                the network of that name, which must exist

Anybody who can connect to the proxy can do what dockerd can do. So it listens on
loopback (127.0.0.0/8, ::1), where every user of this host can connect, or on a unix
socket (mode 0660, the group of dockerd's socket). Any other address needs --tlscert,
--tlskey and --tlscacert, and clients with a certificate. Requests of web pages are
refused. It runs in the foreground and ends with SIGINT or SIGTERM; open streams then
have 5 seconds left.

The settings file has the same settings: [proxy] listen, cert_file, key_file, ca_file.
docker.socket names dockerd's socket, api.socket the agent's.`,
		Example: `  socketplane proxy
  DOCKER_HOST=tcp://127.0.0.1:2375 docker run -d -e SOCKETPLANE_CIDR=10.0.6.1/24 nginx
  socketplane proxy --listen unix:///run/socketplane/docker.sock
  socketplane proxy --listen tcp://192.0.2.7:2376 --tlscert /etc/sp/cert.pem \
    --tlskey /etc/sp/key.pem --tlscacert /etc/sp/ca.pem`,
		Args:                  args(0, 0),
		DisableFlagsInUseLine: true,
	}
	for _, e := range settingTable() {
		if e.proxyFlag() {
			cmd.Flags().String(e.flag, "", e.help)
		}
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, _, err := a.agentSettings(cmd)
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		return runProxy(ctx, s, a.logger(s))
	}
	return cmd
}

// runProxy serves Docker's API until ctx ends.
func runProxy(ctx context.Context, s Settings, logger *slog.Logger) error {
	engine, err := docker.Dial("unix://" + s.Docker.Socket)
	if err != nil {
		return err
	}
	defer engine.Close() //nolint:errcheck // the process ends
	proxy := powerstrip.NewProxy(powerstrip.ProxyConfig{
		Socket: s.Docker.Socket, Logger: logger,
		Adapter: powerstrip.NewAdapter(powerstrip.Config{
			Networks: api.NewClient(s.API.Socket), DockerNetwork: engine.AwaitNetwork, Logger: logger,
		}),
	})
	l, at, err := listenProxy(s)
	if err != nil {
		return err
	}
	// Bodies and responses may take any time, but headers may not.
	server := &http.Server{
		Handler: at.guard(proxy), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 3 * time.Minute, MaxHeaderBytes: 1 << 20,
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}, // no HTTP/2, which has no connection to hijack
		ErrorLog:     slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
	logger.Info("proxy started", "version", Version(), "listen", s.Proxy.Listen, "docker", s.Docker.Socket)
	err = serveProxy(ctx, server, proxy, l)
	logger.Info("proxy stopped")
	return err
}

// serveProxy serves l until ctx ends. Then it waits up to shutdownTimeout for active
// requests and streams, and ends the others.
func serveProxy(ctx context.Context, server *http.Server, proxy *powerstrip.Proxy, l net.Listener) error {
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		err := server.Shutdown(end)
		proxy.Shutdown(end)
		if err != nil {
			_ = server.Close() // for example a `logs -f`
		}
	})
	err := server.Serve(l)
	if stop() || !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	<-stopped
	return nil
}
