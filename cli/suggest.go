package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/spf13/cobra"
)

// closeEnough is the largest distance between a mistyped word and a suggestion.
const closeEnough = 2

// suggestPatience bounds the request for suggestions, because the command has already
// failed.
const suggestPatience = time.Second

// didYouMean adds the nearest existing name to a "not found" error, if there is one.
func didYouMean(ctx context.Context, err error, name string, names func(context.Context) ([]string, error)) error {
	if api.CodeOf(err) != api.CodeNotFound {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, suggestPatience)
	defer cancel()
	list, listErr := names(ctx)
	if listErr != nil {
		return err
	}
	if near, ok := nearest(name, list); ok {
		return fmt.Errorf("%w; did you mean %q?", err, near)
	}
	return err
}

// networkNames returns a function that lists the names of all networks.
func networkNames(svc api.Service) func(context.Context) ([]string, error) {
	return func(ctx context.Context) ([]string, error) {
		networks, err := svc.Networks(ctx)
		var names []string
		for _, n := range networks {
			names = append(names, n.ID)
		}
		return names, err
	}
}

// containerNames returns a function that lists the names of the containers on this host,
// and the ids of those without a name.
func containerNames(svc api.Service) func(context.Context) ([]string, error) {
	return func(ctx context.Context) ([]string, error) {
		endpoints, err := svc.Endpoints(ctx)
		var names []string
		for _, e := range endpoints {
			name := e.ContainerName
			if name == "" {
				name = e.ID
			}
			if !slices.Contains(names, name) { // a container may be on two networks
				names = append(names, name)
			}
		}
		return names, err
	}
}

// nearest returns the name with the smallest distance from word, if one is close enough.
func nearest(word string, names []string) (string, bool) {
	best, found := min(closeEnough, len(word)-1)+1, ""
	for _, name := range names {
		if name == word || len(name)-len(word) > closeEnough || len(word)-len(name) > closeEnough {
			continue
		}
		if d := distance(strings.ToLower(word), strings.ToLower(name)); d < best {
			best, found = d, name
		}
	}
	return found, found != ""
}

// distance counts the insertions, removals, replacements and swaps of adjacent letters
// that turn a into b (Damerau-Levenshtein, optimal string alignment).
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}

// unknownCommand returns the error for a word that is not a subcommand of cmd.
func unknownCommand(cmd *cobra.Command, word string) error {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(append(names, c.Name()), c.Aliases...)
		}
	}
	if near, ok := nearest(word, names); ok {
		return usagef("unknown command %q; did you mean %q? see: %s --help", word, near, cmd.CommandPath())
	}
	return usagef("unknown command %q; see: %s --help", word, cmd.CommandPath())
}
