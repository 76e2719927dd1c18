package cli

import (
	"context"
	"strings"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/spf13/cobra"
)

// completePatience bounds the wait for the agent when a user presses TAB.
const completePatience = time.Second

// completion lists the possible values of an argument or a flag.
type completion = func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective)

// complete completes names from the agent. On any error it offers no names, because an
// error message would garble the line that the user is typing.
func (a *app) complete(names func(api.Service) func(context.Context) ([]string, error)) completion {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completePatience)
		defer cancel()
		svc, err := a.service()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		list, err := names(svc)(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var fit []string
		for _, name := range list {
			if strings.HasPrefix(name, toComplete) {
				fit = append(fit, name)
			}
		}
		return fit, cobra.ShellCompDirectiveNoFileComp
	}
}

// first completes only the first argument.
func first(f completion) completion {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return f(cmd, args, toComplete)
	}
}

// afterNetworkFlag completes the value of -n and --network for a command that parses its
// flags itself. It leaves everything else to the shell.
func (a *app) afterNetworkFlag() completion {
	networks := a.complete(networkNames)
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 && (args[len(args)-1] == "-n" || args[len(args)-1] == "--network") {
			return networks(cmd, args, toComplete)
		}
		return nil, cobra.ShellCompDirectiveDefault
	}
}

// completeFlag sets the completion of a flag's value.
func completeFlag(cmd *cobra.Command, flag string, f completion) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err) // programming error: the flag does not exist
	}
}
