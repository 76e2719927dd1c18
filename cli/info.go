package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/spf13/cobra"
)

func (a *app) infoCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "info [CONTAINER]",
		Aliases: []string{"ps"},
		Short:   "Show what is attached on this host, or on all",
		Long: `Shows the containers of this host that have an interface on a network, or one of
them, by its name, its id or the beginning of its id. A stopped container that keeps
its address has no interface; --stopped shows it too. --all shows the containers of
all hosts, including stopped ones.

ALLOWED lists what a container may have beside its address (--allow-address).
DROPPED counts the packets that the switch dropped because the container sent them
from an address that is not its own, and says why. -o json counts IPv6 too, which
every Linux container sends and which networks do not carry.`,
		Example: `  socketplane info
  socketplane info shop
  socketplane info --all
  socketplane info -o json`,
		Args: args(0, 1),
	}
	format := outputFlag(cmd)
	cmd.ValidArgsFunction = first(a.complete(containerNames))
	all := cmd.Flags().BoolP("all", "a", false, "show the containers of all hosts, including stopped ones that keep their address")
	stopped := cmd.Flags().Bool("stopped", false, "also show stopped containers that keep their address")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		svc, err := a.service()
		if err != nil {
			return err
		}
		switch {
		case len(args) == 1 && *all:
			return usagef("--all shows all containers; leave %q or --all out", args[0])
		case *all:
			return a.infoAll(cmd.Context(), svc, *format)
		case len(args) == 1:
			e, err := svc.Endpoint(cmd.Context(), args[0])
			if err != nil {
				return didYouMean(cmd.Context(), err, args[0], containerNames(svc))
			}
			views := []endpointView{viewEndpoint(e)}
			addDrops(cmd.Context(), svc, views)
			if *format == outputJSON {
				return writeJSON(a.stdout, views[0])
			}
			return writeEndpoints(a.stdout, views)
		}
		endpoints, err := svc.Endpoints(cmd.Context())
		if err != nil {
			return err
		}
		views := make([]endpointView, 0, len(endpoints)) // never nil, so that JSON shows []
		for _, e := range endpoints {
			if e.Attached || *stopped {
				views = append(views, viewEndpoint(e))
			}
		}
		addDrops(cmd.Context(), svc, views)
		if *format == outputJSON {
			return writeJSON(a.stdout, views)
		}
		return writeEndpoints(a.stdout, views)
	}
	return cmd
}

// infoAll prints the endpoints of all hosts.
func (a *app) infoAll(ctx context.Context, svc api.Service, format outputFormat) error {
	endpoints, err := svc.AllEndpoints(ctx)
	if err != nil {
		return err
	}
	views := make([]endpointView, 0, len(endpoints)) // never nil, so that JSON shows []
	for _, e := range endpoints {
		views = append(views, viewEndpoint(e))
	}
	if format == outputJSON {
		return writeJSON(a.stdout, views)
	}
	return writeAllEndpoints(a.stdout, views)
}

// endpointView is an endpoint in the output. The field names are stable.
type endpointView struct {
	ContainerID   string `json:"container_id"`
	ContainerName string `json:"container_name"`
	Network       string `json:"network"`
	IP            string `json:"ip"`
	MAC           string `json:"mac"`
	Gateway       string `json:"gateway"`
	Port          string `json:"port"`
	Host          string `json:"host"`

	Ports []api.PortMapping `json:"ports,omitempty"` // published; host port 0: selected at the next start

	Stopped bool   `json:"stopped,omitempty"` // it holds its address but has no interface
	Problem string `json:"problem,omitempty"` // why its packets do not pass

	Allowed    []string  `json:"allow_addresses,omitempty"`
	Forwarding bool      `json:"forwarding,omitempty"`
	Routes     []string  `json:"routes,omitempty"`  // prefixes that are reached through it
	Dropped    api.Drops `json:"dropped,omitempty"` // packets that the switch dropped, by cause

	endpoint string // endpoint id; a container may have several
}

func viewEndpoint(e api.Endpoint) endpointView {
	v := endpointView{
		ContainerID: e.ContainerID, ContainerName: e.ContainerName, Network: e.Network,
		MAC: e.MAC, Port: e.Port, Host: e.Host, Ports: e.Ports, Stopped: !e.Attached, Problem: e.Problem,
		Allowed: api.AllowedText(e.AllowAddresses), Forwarding: e.Forwarding, Routes: api.AllowedText(e.Routes), endpoint: e.ID,
	}
	if v.ContainerID == "" {
		v.ContainerID = e.ID
	}
	if e.IP.IsValid() {
		v.IP = e.IP.String()
	}
	if e.Gateway.IsValid() {
		v.Gateway = e.Gateway.String()
	}
	return v
}

func writeEndpoint(w io.Writer, format outputFormat, e api.Endpoint) error {
	if format == outputJSON {
		return writeJSON(w, viewEndpoint(e))
	}
	return writeEndpoints(w, []endpointView{viewEndpoint(e)})
}

func writeEndpoints(w io.Writer, endpoints []endpointView) error {
	header := []string{"CONTAINER", "NAME", "NETWORK", "IP", "MAC", "GATEWAY", "PORT"}
	// These columns are wide, and most hosts do not need them.
	columns := []struct {
		header string
		shown  bool
		text   func(endpointView) string
	}{
		{"PUBLISHED", some(endpoints, func(e endpointView) bool { return len(e.Ports) > 0 }), func(e endpointView) string { return publishedText(e.Ports) }},
		{"ALLOWED", some(endpoints, func(e endpointView) bool { return len(e.Allowed) > 0 }), allowedText},
		{"DROPPED", some(endpoints, func(e endpointView) bool { return droppedText(e.Dropped) != "-" }), func(e endpointView) string { return droppedText(e.Dropped) }},
	}
	for _, c := range columns {
		if c.shown {
			header = append(header, c.header)
		}
	}
	rows := make([][]string, 0, len(endpoints))
	for _, e := range endpoints {
		row := []string{shortID(e.ContainerID), e.ContainerName, e.Network, e.IP, e.MAC, e.Gateway, e.Port}
		for _, c := range columns {
			if c.shown {
				row = append(row, c.text(e))
			}
		}
		rows = append(rows, row)
	}
	if err := writeTable(w, header, rows); err != nil {
		return err
	}
	for _, e := range endpoints {
		if e.Problem == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "Problem: %s\n", oneLine(e.Problem)); err != nil {
			return err
		}
	}
	return nil
}

// writeAllEndpoints prints endpoints of several hosts.
func writeAllEndpoints(w io.Writer, endpoints []endpointView) error {
	header := []string{"HOST", "CONTAINER", "NAME", "NETWORK", "IP", "MAC", "STATE", "PUBLISHED"}
	allows := some(endpoints, func(e endpointView) bool { return len(e.Allowed) > 0 })
	if allows {
		header = append(header, "ALLOWED")
	}
	rows := make([][]string, 0, len(endpoints))
	for _, e := range endpoints {
		state := "attached"
		if e.Stopped {
			state = "stopped"
		}
		row := []string{e.Host, shortID(e.ContainerID), e.ContainerName, e.Network, e.IP, e.MAC, state, publishedText(e.Ports)}
		if allows {
			row = append(row, allowedText(e))
		}
		rows = append(rows, row)
	}
	return writeTable(w, header, rows)
}

// shortID shortens a container id to the 12 characters that Docker shows. It does not
// change other ids.
func shortID(id string) string {
	if len(id) == 64 && isHex(id) {
		return id[:12]
	}
	return id
}

func isHex(s string) bool {
	for _, r := range s {
		if (r < '0' || r > '9') && (r < 'a' || r > 'f') {
			return false
		}
	}
	return true
}
