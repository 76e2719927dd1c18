// Package netavark is the netavark plugin (containers/netavark, plugin-API.md 1.0.0),
// through which Podman 5 connects containers to networks. It passes Podman's requests to
// the agent and returns the agent's results in netavark's format. It makes no decisions
// about networks and stores no state: the id of an endpoint contains what teardown needs.
package netavark

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/socketplane/socketplane/agent/api"
)

// Name is the program's name when it is called as the plugin. It is Podman's name of the
// network driver.
const Name = "socketplane-netavark"

// APIVersion is the version of the plugin API.
const APIVersion = "1.0.0"

// maxInput bounds the input, in bytes. Podman sends a few kilobytes.
const maxInput = 1 << 20

// inputTimeout bounds the wait for the input. netavark writes it at once.
const inputTimeout = 10 * time.Second

// callTimeout bounds one command. It is longer than the agent's own limit, so that the
// user sees the agent's error.
const callTimeout = 25 * time.Second

// IsPlugin reports whether the program was called as the plugin.
func IsPlugin(argv0 string) bool { return filepath.Base(argv0) == Name }

// Main runs one call of the plugin. The command is in args and the input on stdin. version
// is the version of the program. Main writes the result or the error to stdout and returns
// the exit code.
func Main(args []string, version string) int {
	p := plugin{
		in: os.Stdin, out: os.Stdout, patience: inputTimeout, version: version, rootless: rootless(os.Geteuid(), os.Getenv),
		connect: func(socket string) api.Service { return api.NewClient(socket) },
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	return p.run(ctx, args)
}

// plugin contains the dependencies of the commands.
type plugin struct {
	in       io.Reader
	out      io.Writer
	patience time.Duration
	version  string
	rootless bool
	connect  func(socket string) api.Service
}

// run executes a command. It writes an error in the format of the API, and netavark passes
// the message to Podman's user.
func (p *plugin) run(ctx context.Context, args []string) int {
	err := p.command(ctx, args)
	if err == nil {
		return 0
	}
	said := p.tell(struct {
		Error string `json:"error"`
	}{oneLine(err.Error())})
	if said != nil {
		_, _ = io.WriteString(os.Stderr, Name+": "+err.Error()+"\n") // there is no other way to report it
	}
	return 1
}

func (p *plugin) command(ctx context.Context, args []string) error {
	usage := fmt.Errorf("this is SocketPlane's netavark plugin, which Podman calls as create, setup NETNS, teardown NETNS or info; "+
		"make a network with: podman network create --driver %s NAME", Name)
	if len(args) == 0 {
		return usage
	}
	switch {
	case args[0] == "info" && len(args) == 1:
		return p.tell(struct {
			Version    string `json:"version"`
			APIVersion string `json:"api_version"`
		}{p.version, APIVersion})
	case args[0] == "create" && len(args) == 1, args[0] == "setup" && len(args) == 2, args[0] == "teardown" && len(args) == 2:
	default:
		return usage
	}
	if p.rootless {
		return errors.New("rootless Podman cannot use SocketPlane's networks, since they need the host's own network namespace; run Podman as root")
	}
	input, err := p.read()
	if err != nil {
		return err
	}
	switch args[0] {
	case "create":
		return p.create(ctx, input)
	case "setup":
		return p.setup(ctx, args[1], input)
	default:
		return p.teardown(ctx, input)
	}
}

// read returns the content of standard input. It fails if the input is too long or does
// not end in time.
func (p *plugin) read() ([]byte, error) {
	var data []byte
	read := make(chan error, 1)
	go func() { // in a goroutine, because a file other than a pipe has no deadline; it ends with the program at the latest
		var err error
		data, err = io.ReadAll(io.LimitReader(p.in, maxInput+1))
		read <- err
	}()
	late := time.NewTimer(p.patience)
	defer late.Stop()
	select {
	case err := <-read:
		if err != nil {
			return nil, fmt.Errorf("standard input: %w", err)
		}
	case <-late.C:
		return nil, fmt.Errorf("standard input has no end after %s; netavark writes it and closes it", p.patience)
	}
	if len(data) > maxInput {
		return nil, fmt.Errorf("standard input is larger than %d bytes", maxInput)
	}
	return data, nil
}

// tell writes a result as one line of JSON.
func (p *plugin) tell(answer any) error {
	line, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	if _, err := p.out.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

// rootless reports whether Podman runs without root privileges. In Podman's own user
// namespace its children have euid 0, so rootless also checks the environment variable
// that Podman itself uses.
func rootless(euid int, getenv func(string) string) bool {
	return euid != 0 || getenv("_CONTAINERS_USERNS_CONFIGURED") != ""
}

func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }), "; ")
}

// shown quotes external text and truncates it to 80 bytes.
func shown(s string) string {
	if len(s) > 80 {
		return fmt.Sprintf("%q...", s[:80])
	}
	return fmt.Sprintf("%q", s)
}
