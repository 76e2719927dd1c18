package cli

import (
	"cmp"

	"github.com/spf13/cobra"

	"github.com/socketplane/socketplane/agent/api"
)

func (a *app) clusterMembersCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "members",
		Short: "List the hosts of the cluster",
		Long: `Lists the hosts of the cluster; a star marks this one. A host is suspect if its agent
is silent; its containers may still run. It is gone if its machine is dead too. The
others then send nothing to it. After cluster.reclaim_after (an hour) they release its
addresses and remove it from the list. The role is that of its Consul: a cluster of three
or more hosts has three servers. The version is that of the host's agent; it is marked as behind if a living
host runs a newer one. Hosts of different versions work together while they are upgraded
one by one.`,
		Example: `  socketplane cluster members
  socketplane cluster members -o json`,
		Args: args(0, 0),
	}
	format := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		svc, err := a.clusterService()
		if err != nil {
			return err
		}
		members, err := svc.Members(cmd.Context())
		if err != nil {
			return err
		}
		if p, err := svc.Place(cmd.Context()); err == nil {
			a.warnInsecure(p)
		}
		if *format == outputJSON {
			return writeJSON(a.stdout, members)
		}
		named := namesakes{}
		for _, m := range members {
			named[m.Name]++
		}
		var rows [][]string
		for _, m := range members {
			name := named.shown(m.Name, m.ID)
			if m.Self {
				name += " *"
			}
			rows = append(rows, []string{name, m.Address, m.State, m.Role, shownVersion(m)})
		}
		return writeTable(a.stdout, []string{"HOST", "ADDRESS", "STATE", "ROLE", "VERSION"}, rows)
	}
	return cmd
}

// shownVersion returns the version of a host's agent, marked if it should be upgraded.
func shownVersion(m api.Member) string {
	version := cmp.Or(m.Version, "unknown")
	if m.Behind {
		version += " (behind)"
	}
	return version
}
