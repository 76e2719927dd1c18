package cli

import (
	"context"
	"strings"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/spf13/cobra"
)

// completePatience is how long a shell waits for the agent when a user presses TAB.
const completePatience = time.Second

// completion lists what an argument or a flag's value can be.
type completion = func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective)

// complete asks the agent for names. Whatever fails, the shell is told of no names: an
// error would garble the line that is being typed.
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

// first completes the first argument only.
func first(f completion) completion {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return f(cmd, args, toComplete)
	}
}

// afterNetworkFlag completes the value of -n and --network for a command that reads
// its flags itself. The shell completes all else.
func (a *app) afterNetworkFlag() completion {
	networks := a.complete(networkNames)
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 && (args[len(args)-1] == "-n" || args[len(args)-1] == "--network") {
			return networks(cmd, args, toComplete)
		}
		return nil, cobra.ShellCompDirectiveDefault
	}
}

// completeFlag has a flag's value completed.
func completeFlag(cmd *cobra.Command, flag string, f completion) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err) // the flag does not exist: a mistake of ours
	}
}
