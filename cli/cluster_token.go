package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/spf13/cobra"
)

// tokenEnv is the environment variable with the cluster's token.
const tokenEnv = "SOCKETPLANE_TOKEN"

// maxTokenText bounds the text of a token, in bytes.
const maxTokenText = 1 << 10

func (a *app) clusterTokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token [--new]",
		Short: "Show what a host needs to join",
		Long: `Shows the cluster's token. It allows a host to join, so keep it secret. --new generates
a token and only prints it. Use it to prepare hosts before their cluster exists.`,
		Example: `  socketplane cluster token
  socketplane cluster token --new`,
		Args: args(0, 0),
	}
	fresh := cmd.Flags().Bool("new", false, "generate a token; needs no agent")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *fresh {
			_, err := fmt.Fprintln(a.stdout, cluster.NewToken().Secret())
			return err
		}
		svc, err := a.clusterService()
		if err != nil {
			return err
		}
		t, err := svc.Token(cmd.Context())
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(a.stdout, t.Token)
		return err
	}
	return cmd
}

// tokenSource contains the flags that specify the token.
type tokenSource struct{ token, file string }

func tokenFlags(cmd *cobra.Command) *tokenSource {
	var t tokenSource
	cmd.Flags().StringVar(&t.token, "token", "", "the token itself; others on this host can see it meanwhile")
	cmd.Flags().StringVar(&t.file, "token-file", "", "file that holds the token; - is standard input")
	return &t
}

// readToken reads and checks the token from flags or environment. It returns "" if none is
// specified.
func (a *app) readToken(from *tokenSource) (string, error) {
	text, where := from.token, "--token"
	switch {
	case from.token != "" && from.file != "":
		return "", usagef("--token and --token-file are both given; choose one")
	case from.file == "-":
		data, err := io.ReadAll(io.LimitReader(a.stdin, maxTokenText+1))
		if err != nil {
			return "", fmt.Errorf("token from standard input: %w", err)
		}
		text, where = string(data), "standard input"
	case from.file != "":
		data, err := readTokenFile(from.file)
		if err != nil {
			return "", err
		}
		text, where = data, from.file
	case from.token == "":
		var ok bool
		if text, ok = a.getenv(tokenEnv); !ok || text == "" {
			return "", nil
		}
		where = tokenEnv
	}
	t, err := cluster.ParseToken(text)
	if err != nil {
		return "", usagef("%s: %w", where, err)
	}
	return t.Secret(), nil
}

func readTokenFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("token file: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read from
	data, err := io.ReadAll(io.LimitReader(f, maxTokenText+1))
	if err == nil && strings.TrimSpace(string(data)) == "" {
		err = errors.New("it is empty")
	}
	if err != nil {
		return "", fmt.Errorf("token file %s: %w", path, err)
	}
	return string(data), nil
}
