// Package cni is the CNI plugin (containernetworking/cni, SPEC.md 1.1). It passes the
// requests of a container runtime to the agent and returns the agent's results in the
// format of the specification. It makes no decisions about networks and stores no state:
// the id of an endpoint contains what it needs later.
package cni

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/socketplane/socketplane/agent/api"
)

// Name is the program's name when it is called as the plugin. It is the `type` in a
// network configuration.
const Name = "socketplane-cni"

// Versions are the versions of the specification that the plugin supports.
var Versions = version.PluginSupports("0.3.1", "0.4.0", "1.0.0", "1.1.0")

// maxConfig bounds a configuration, in bytes. The list of valid attachments of a host with
// about ten thousand containers fits in it.
const maxConfig = 4 << 20

// configTimeout bounds the wait for the configuration. A runtime writes it at once.
const configTimeout = 10 * time.Second

// callTimeout bounds one command. It is longer than the agent's own limit, so that the
// runtime gets the agent's error.
const callTimeout = 25 * time.Second

// IsPlugin reports whether the program was called as the plugin.
func IsPlugin(argv0 string) bool { return filepath.Base(argv0) == Name }

// Main runs one call of the plugin. The command is in the environment and the
// configuration on stdin. Main writes the result or the error to stdout and returns the
// exit code.
func Main() int { return run(configTimeout) }

func run(patience time.Duration) int {
	p := plugin{out: os.Stdout, connect: func(socket string) api.Service { return api.NewClient(socket) }}
	err := boundStdin(patience)
	if err == nil {
		err = skel.PluginMainFuncsWithError(p.commands(), Versions,
			"This is SocketPlane's CNI plugin. Container runtimes call it; set them up with: socketplane cni install")
	}
	if err == nil {
		return 0
	}
	if failed := err.Print(); failed != nil {
		_, _ = io.WriteString(os.Stderr, Name+": "+err.Error()+"\n") // there is no other way to report it
	}
	return 1
}

// boundStdin reads standard input with limits on size and time, and replaces os.Stdin with
// a pipe that contains the data. The CNI library itself reads without limits.
func boundStdin(patience time.Duration) *types.Error {
	switch os.Getenv("CNI_COMMAND") {
	case "", "VERSION": // these read nothing
		return nil
	}
	var data []byte
	read := make(chan error, 1)
	go func() { // in a goroutine, because a file other than a pipe has no deadline; it ends with the program at the latest
		var err error
		data, err = io.ReadAll(io.LimitReader(os.Stdin, maxConfig+1))
		read <- err
	}()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case err := <-read:
		if err != nil {
			return failf(types.ErrIOFailure, "network configuration on standard input: %v", err)
		}
	case <-late.C:
		return failf(types.ErrIOFailure, "network configuration on standard input has no end after %s; see that the runtime writes it and closes it", patience)
	}
	if len(data) > maxConfig {
		return failf(types.ErrDecodingFailure, "network configuration is larger than %d bytes", maxConfig)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return failf(types.ErrIOFailure, "network configuration: %v", err)
	}
	go func() {
		_, _ = bytes.NewReader(data).WriteTo(w) // it is no failure if the reader reads less
		_ = w.Close()
	}()
	os.Stdin = r
	return nil
}

// plugin contains the dependencies of the commands.
type plugin struct {
	out     io.Writer
	connect func(socket string) api.Service
}

func (p *plugin) commands() skel.CNIFuncs {
	return skel.CNIFuncs{
		Add: timed(p.add), Del: timed(p.del), Check: timed(p.check), GC: timed(p.gc), Status: timed(p.status),
	}
}

// timed bounds the time of a command and converts its error to a CNI error code.
func timed(command func(context.Context, *skel.CmdArgs) error) func(*skel.CmdArgs) error {
	return func(args *skel.CmdArgs) error {
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		defer cancel()
		err := command(ctx, args)
		if err == nil {
			return nil
		}
		if coded, ok := errors.AsType[*types.Error](err); ok {
			return coded
		}
		return types.NewError(codeOf(err), oneLine(err.Error()), "")
	}
}
