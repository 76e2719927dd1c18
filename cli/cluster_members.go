package cli

import "github.com/spf13/cobra"

func (a *app) clusterMembersCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "members",
		Short: "List the hosts of the cluster",
		Long: `Lists the hosts of the cluster, this one marked with a star. A host is suspect when
its agent has not been heard of; its containers may run on. It is gone when its machine
is dead, too: nothing is sent to it any more, and after a while its addresses are given
up, and it is in the list no more. The role is that of its Consul: three servers carry a
cluster of three hosts and more.`,
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
			rows = append(rows, []string{name, m.Address, m.State, m.Role})
		}
		return writeTable(a.stdout, []string{"HOST", "ADDRESS", "STATE", "ROLE"}, rows)
	}
	return cmd
}
