// Package netavark is the netavark plugin (containers/netavark, plugin-API.md 1.0.0), by
// which Podman 5 puts containers on networks: it passes to the agent what Podman asks
// for, and gives the agent's answer back in netavark's terms. It decides nothing about
// networks and keeps no state: an endpoint's id holds what teardown needs to know.
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

// Name is what the program is called when it is the plugin: Podman's name for the driver
// of a network.
const Name = "socketplane-netavark"

// APIVersion is the version of the plugin API.
const APIVersion = "1.0.0"

// maxInput bounds what is read, in bytes. What Podman sends is a few kilobytes.
const maxInput = 1 << 20

// inputTimeout bounds the wait for the input: netavark writes it at once.
const inputTimeout = 10 * time.Second

// callTimeout bounds one command. It is above the agent's own limit, so that the user
// sees the agent's reason.
const callTimeout = 25 * time.Second

// IsPlugin says whether the program was called as the plugin.
func IsPlugin(argv0 string) bool { return filepath.Base(argv0) == Name }

// Main is one call of the plugin: the command in args, the input on stdin, the answer or
// the error on stdout. It gives the exit code. version is the program's.
func Main(args []string, version string) int {
	p := plugin{
		in: os.Stdin, out: os.Stdout, patience: inputTimeout, version: version, rootless: rootless(os.Geteuid(), os.Getenv),
		connect: func(socket string) api.Service { return api.NewClient(socket) },
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	return p.run(ctx, args)
}

// plugin has what the commands need of the world.
type plugin struct {
	in       io.Reader
	out      io.Writer
	patience time.Duration
	version  string
	rootless bool
	connect  func(socket string) api.Service
}

// run executes a command and tells its failure as the API wants it: netavark passes the
// sentence on to Podman's user.
func (p *plugin) run(ctx context.Context, args []string) int {
	err := p.command(ctx, args)
	if err == nil {
		return 0
	}
	said := p.tell(struct {
		Error string `json:"error"`
	}{oneLine(err.Error())})
	if said != nil {
		_, _ = io.WriteString(os.Stderr, Name+": "+err.Error()+"\n") // the last way to tell anybody
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

// read gives what is on standard input, if it is not too much and ends in time.
func (p *plugin) read() ([]byte, error) {
	var data []byte
	read := make(chan error, 1)
	go func() { // a file that is no pipe has no deadline; the program ends soon after
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

// tell writes an answer.
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

// rootless says whether Podman runs without root's rights. In a user namespace that it
// made its children see themselves as root; this variable is what Podman goes by too.
func rootless(euid int, getenv func(string) string) bool {
	return euid != 0 || getenv("_CONTAINERS_USERNS_CONFIGURED") != ""
}

func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }), "; ")
}

// shown quotes what came from outside, cut short.
func shown(s string) string {
	if len(s) > 80 {
		return fmt.Sprintf("%q...", s[:80])
	}
	return fmt.Sprintf("%q", s)
}
