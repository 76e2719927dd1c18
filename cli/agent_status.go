package cli

import (
	"cmp"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/spf13/cobra"
)

func (a *app) agentStatusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the agent, its peers and any problems",
		Long: `Shows the running agent: the host as others see it, the store, the peers with their
tunnels, and problems. PATH MTU is the largest packet, in bytes, that reaches a peer. It
is "-" if no probe has been answered yet, or if the peer's release does not answer. In a
cluster, "Consul CLI" shows the variable that root sets to use Consul's commands
(CONSUL_HTTP_ADDR=... consul members). Exits 3 if no agent runs.`,
		Example: `  socketplane agent status
  socketplane agent status -o json`,
		Args: args(0, 0),
	}
	format := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		svc, err := a.service()
		if err != nil {
			return err
		}
		st, err := svc.Status(cmd.Context())
		if err != nil {
			return err
		}
		if *format == outputJSON {
			if st.Problems == nil {
				st.Problems = []string{}
			}
			if st.Peers == nil {
				st.Peers = []api.Peer{}
			}
			return writeJSON(a.stdout, st)
		}
		return writeStatus(a.stdout, st)
	}
	return cmd
}

func writeStatus(w io.Writer, st api.Status) error {
	ready := "yes"
	if !st.Ready {
		ready = "not yet"
	}
	facts := [][2]string{
		{"Version", st.Version},
		{"PID", strconv.Itoa(st.PID)},
		{"Ready", ready},
		{"Host", st.Host.Name + " (" + st.Host.ID + ")"},
		{"Tunnel address", st.Host.VTEP},
		{"Bridge", st.Bridge + " (datapath " + st.Host.Datapath + ")"},
	}
	if st.Uplinks != nil { // nil while the agent waits for its place
		facts = append(facts, [2]string{"Uplinks", cmp.Or(strings.Join(st.Uplinks, ", "), "none")})
	}
	facts = append(facts, [2]string{"Store", st.Store})
	// The consul commands do not look for a socket by themselves.
	if addr, ok := strings.CutPrefix(st.Store, "consul unix://"); ok {
		facts = append(facts, [2]string{"Consul CLI", "CONSUL_HTTP_ADDR=unix://" + addr})
	}
	for _, f := range facts {
		if _, err := fmt.Fprintf(w, "%-16s%s\n", f[0]+":", oneLine(f[1])); err != nil {
			return err
		}
	}
	for _, p := range st.Problems {
		if _, err := fmt.Fprintf(w, "%-16s%s\n", "Problem:", oneLine(p)); err != nil {
			return err
		}
	}
	for _, o := range st.Overwritten {
		if _, err := fmt.Fprintf(w, "%-16skey %s by somebody else, count %d, last %s\n", "Overwritten:", oneLine(o.Key), o.Count, o.Last.Format(time.RFC3339)); err != nil {
			return err
		}
	}
	if len(st.Peers) == 0 {
		_, err := fmt.Fprintf(w, "%-16s%s\n", "Peers:", "none")
		return err
	}
	fmt.Fprintln(w)
	named := namesakes{st.Host.Name: 1}
	for _, p := range st.Peers {
		named[p.Name]++
	}
	rows := make([][]string, 0, len(st.Peers))
	for _, p := range st.Peers {
		mtu := "-"
		if p.PathMTU > 0 {
			mtu = strconv.Itoa(p.PathMTU)
		}
		rows = append(rows, []string{named.shown(p.Name, p.ID), p.VTEP, p.State, p.Tunnel, mtu})
	}
	return writeTable(w, []string{"PEER", "ADDRESS", "STATE", "TUNNEL", "PATH MTU"}, rows)
}
