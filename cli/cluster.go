package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/spf13/cobra"
)

func (a *app) clusterCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "cluster",
		Short: "Bootstrap, join, leave and show the cluster",
		Long: `A cluster is a set of hosts that share networks. You bootstrap it on one host, and
other hosts join it with its token. The agents run Consul for it. If consul.address is
set, all hosts that use that Consul form the cluster, and you need no command here.
Commands that change this host's place in the cluster print the new place with -o json.`,
		Example: `  socketplane cluster bootstrap
  socketplane cluster token
  socketplane cluster join --token-file /root/token 192.0.2.11
  socketplane cluster members`,
	})
	cmd.AddCommand(a.clusterBootstrapCommand(), a.clusterJoinCommand(), a.clusterLeaveCommand(),
		a.clusterBindCommand(), a.clusterMembersCommand(), a.clusterTokenCommand())
	return cmd
}

// clusterService returns a client of the agent.
func (a *app) clusterService() (api.ClusterService, error) {
	s, err := a.settings()
	if err != nil {
		return nil, err
	}
	return api.NewClient(s.API.Socket), nil
}

// placeDeadline bounds the time that an agent takes to reach its new place. Consul starts
// in 2 s, and finds the other hosts in another 2 s.
const placeDeadline = 90 * time.Second

// moved waits until the agent has reached a place after before.
func (a *app) moved(ctx context.Context, svc api.ClusterService, before api.Place) (api.Place, error) {
	ctx, cancel := context.WithTimeout(ctx, placeDeadline)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	said := ""
	for {
		p, err := svc.Place(ctx)
		if err == nil && p.Life > before.Life && p.Ready {
			return p, nil
		}
		why := "it has not begun anew"
		if err != nil {
			why = err.Error()
		} else if p.Waiting != "" {
			why = p.Waiting
			if why != said && a.onTerminal() {
				said = why
				fmt.Fprintln(a.stderr, "waiting: "+oneLine(why))
			}
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return p, fmt.Errorf("the agent has not completed the change within %s (%s); it keeps trying, see: socketplane agent status", placeDeadline, oneLine(why))
			}
			return p, ctx.Err()
		case <-tick.C:
		}
	}
}

// onTerminal reports whether standard error is a terminal.
func (a *app) onTerminal() bool {
	f, ok := a.stderr.(*os.File)
	return ok && isTerminal(f)
}

// change requests another place with ask and waits until the agent has reached it.
func (a *app) change(ctx context.Context, ask func(api.ClusterService) (api.Place, error)) (before, after api.Place, err error) {
	svc, err := a.clusterService()
	if err != nil {
		return before, after, err
	}
	if before, err = svc.Place(ctx); err != nil {
		return before, after, err
	}
	answer, err := ask(svc)
	if err != nil {
		return before, after, err
	}
	if !answer.Changing {
		return before, answer, nil // nothing to change
	}
	after, err = a.moved(ctx, svc, before)
	return before, after, err
}

// warnInsecure prints a warning to standard error if anyone may join the cluster.
func (a *app) warnInsecure(p api.Place) {
	if p.Insecure {
		fmt.Fprintln(a.stderr, "socketplane: INSECURE: anybody on this network can join this cluster, read and change it (cluster.insecure_autojoin); for demonstrations only")
	}
}
