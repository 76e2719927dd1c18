// Package oci connects the OCI runtime with the agent. It contains the wrapper that Docker
// calls instead of runc, and the hook that the wrapper adds to each bundle. The hook
// attaches a container before its process runs. Both run several times per container, so
// they are in a small program of their own, and the package imports only the client of
// package api.
package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/socketplane/socketplane/agent/api"
)

// RuntimeProgram is the name of the program that is Docker's runtime.
const RuntimeProgram = "socketplane-runc"

// SocketFlag is our own flag among the runtime's arguments. Docker passes it from
// daemon.json if the agent's socket is not DefaultSocket.
const SocketFlag = "--socketplane-socket="

// IsRuntime reports whether the program was called as the runtime.
func IsRuntime(argv0 string) bool { return filepath.Base(argv0) == RuntimeProgram }

// RunRuntime is runc with our hook added to every container that it creates. It edits the
// bundle's config.json and then replaces itself with the real runc. It returns only on
// failure, with an exit code.
func RunRuntime(argv, env []string, stderr io.Writer) int {
	err := runRuntime(argv, env)
	fmt.Fprintf(stderr, "%s: %v\n", RuntimeProgram, err)
	return 1
}

func runRuntime(argv, env []string) error {
	runc, err := findRunc(exec.LookPath)
	if err != nil {
		return err
	}
	args, socket := takeSocket(argv[1:])
	verb, rest := subcommand(args)
	switch verb {
	case "create", "run":
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("path of this program: %w", err)
		}
		if err := injectHook(filepath.Join(bundleOf(rest), "config.json"), self, socket); err != nil {
			return err
		}
	case "delete":
		// The container has ended. Reporting this here avoids a poststop hook, whose extra
		// process would delay the end.
		ended(rest, socket)
	}
	if err := syscall.Exec(runc, append([]string{runc}, args...), env); err != nil {
		return fmt.Errorf("run %s: %w", runc, err)
	}
	return nil
}

// findRunc finds the real runc where distributions and Docker install it.
func findRunc(lookPath func(string) (string, error)) (string, error) {
	for _, name := range []string{"/usr/bin/runc", "/usr/sbin/runc", "/usr/local/sbin/runc", "runc", "docker-runc"} {
		path, err := lookPath(name)
		if err == nil && !IsRuntime(path) {
			return path, nil
		}
	}
	return "", errors.New("runc is not installed; install the package runc or containerd.io")
}

// takeSocket removes our own flag from the global flags and returns its value.
func takeSocket(args []string) (rest []string, socket string) {
	for i, arg := range args {
		if !strings.HasPrefix(arg, "-") {
			return append(rest, args[i:]...), socket
		}
		if value, ok := strings.CutPrefix(arg, SocketFlag); ok {
			socket = value
			continue
		}
		rest = append(rest, arg)
	}
	return rest, socket
}

// subcommand returns runc's subcommand and the arguments after it. The verb is "" if there
// is none. runc parses flags like urfave/cli: -x v, --x v or --x=v, global flags first.
func subcommand(args []string) (verb string, rest []string) {
	valued := map[string]bool{"log": true, "log-format": true, "root": true, "criu": true, "rootless": true}
	i := 0
	for ; i < len(args) && strings.HasPrefix(args[i], "-"); i++ {
		if valued[strings.TrimLeft(args[i], "-")] {
			i++
		}
	}
	if i >= len(args) {
		return "", nil
	}
	return args[i], args[i+1:]
}

// bundleOf returns the path of the bundle in the arguments of create or run.
func bundleOf(args []string) string {
	bundle := "." // runc's default
	for i := 0; i < len(args) && strings.HasPrefix(args[i], "-"); i++ {
		name, value, valued := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		switch name {
		case "bundle", "b":
			if !valued && i+1 < len(args) {
				i++
				value = args[i]
			}
			bundle = value
		case "console-socket", "pid-file", "pidfd-socket", "preserve-fds":
			if !valued {
				i++
			}
		}
	}
	return bundle
}

// endedWait bounds how long the end of a container waits for an agent that does not
// answer. The converge loop finds containers whose end was not reported.
const endedWait = 2 * time.Second

// ended reports to the agent that a container has ended. The container keeps its address.
// ended ignores errors, because they must not keep runc from deleting the container.
func ended(args []string, socket string) {
	if len(args) == 0 || api.CheckEndpointID(args[len(args)-1]) != nil {
		return
	}
	if socket == "" {
		socket = DefaultSocket
	}
	ctx, cancel := context.WithTimeout(context.Background(), endedWait)
	defer cancel()
	_ = api.NewClient(socket).Detach(ctx, args[len(args)-1]) // see above: the converge loop finds unreported ends
}
