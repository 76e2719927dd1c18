// Package cni is the CNI plugin (containernetworking/cni, SPEC.md 1.1): it says
// to the agent what a container runtime asks for, and gives the agent's answer
// back in the specification's terms. It decides nothing about networks and
// keeps no state: what it needs to know later is in an endpoint's id.
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

// Name is what the program is called when it is the plugin: the `type` of a
// network configuration.
const Name = "socketplane-cni"

// Versions are the versions of the specification that the plugin speaks.
var Versions = version.PluginSupports("0.3.1", "0.4.0", "1.0.0", "1.1.0")

// maxConfig bounds a configuration, in bytes: the list of valid attachments of
// a host with some ten thousand containers is below it.
const maxConfig = 4 << 20

// configTimeout bounds the wait for the configuration: a runtime writes it at once.
const configTimeout = 10 * time.Second

// callTimeout bounds one command. It is above the agent's own limit, so that
// the agent's reason is what the runtime gets to see.
const callTimeout = 25 * time.Second

// IsPlugin says whether the program was called as the plugin.
func IsPlugin(argv0 string) bool { return filepath.Base(argv0) == Name }

// Main is one call of the plugin: the command in the environment, the
// configuration on stdin, the answer or the error on stdout. It gives the exit
// code.
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
		_, _ = io.WriteString(os.Stderr, Name+": "+err.Error()+"\n") // the last way to tell anybody
	}
	return 1
}

// boundStdin puts what is on standard input, if it is not too much and comes in
// time, in its place again: the library reads all there is, and waits for it.
func boundStdin(patience time.Duration) *types.Error {
	switch os.Getenv("CNI_COMMAND") {
	case "", "VERSION": // nothing is read
		return nil
	}
	var data []byte
	read := make(chan error, 1)
	go func() { // a file that is no pipe has no deadline; the program ends with it, or soon after
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
		_, _ = bytes.NewReader(data).WriteTo(w) // who reads less has his reasons
		_ = w.Close()
	}()
	os.Stdin = r
	return nil
}

// plugin has what the commands need of the world.
type plugin struct {
	out     io.Writer
	connect func(socket string) api.Service
}

func (p *plugin) commands() skel.CNIFuncs {
	return skel.CNIFuncs{
		Add: timed(p.add), Del: timed(p.del), Check: timed(p.check), GC: timed(p.gc), Status: timed(p.status),
	}
}

// timed bounds a command, and gives its failure the code that says what kind it is.
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
