// Package oci is what stands between the OCI runtime and the agent: the wrapper
// that Docker calls instead of runc, and the hook that it puts into each bundle,
// which attaches a container before its process runs. Both are run several times
// for each container, so they are a program of their own with next to nothing in
// it; the package imports no more than the api's client.
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

// SocketFlag is our own flag among the runtime's arguments. Docker passes it
// from daemon.json where the agent's socket is not at its usual place.
const SocketFlag = "--socketplane-socket="

// IsRuntime says whether the program was called as the runtime.
func IsRuntime(argv0 string) bool { return filepath.Base(argv0) == RuntimeProgram }

// RunRuntime is runc with our hooks put into every container that is created:
// it mends the bundle's config.json and becomes the real runc. It returns, with
// an exit code, only when it fails.
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
		// The container has ended. This spares it a poststop hook, which would be
		// one more process in the way of its end.
		ended(rest, socket)
	}
	if err := syscall.Exec(runc, append([]string{runc}, args...), env); err != nil {
		return fmt.Errorf("run %s: %w", runc, err)
	}
	return nil
}

// findRunc finds the real runc where distributions and Docker put it.
func findRunc(lookPath func(string) (string, error)) (string, error) {
	for _, name := range []string{"/usr/bin/runc", "/usr/sbin/runc", "/usr/local/sbin/runc", "runc", "docker-runc"} {
		path, err := lookPath(name)
		if err == nil && !IsRuntime(path) {
			return path, nil
		}
	}
	return "", errors.New("runc is not installed; install the package runc or containerd.io")
}

// takeSocket removes our own flag.
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

// subcommand gives runc's subcommand and what follows it; none is empty. runc's
// flags are those of urfave/cli: -x v, --x v or --x=v, global ones in front.
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

// bundleOf gives the bundle that create or run, with args, makes a container from.
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

// endedWait bounds how long a container's end may wait for an agent that does
// not answer. The converge loop finds what nobody told.
const endedWait = 2 * time.Second

// ended tells the agent that a container has ended; its address stays. What goes
// wrong must not keep runc from taking the container away.
func ended(args []string, socket string) {
	if len(args) == 0 || api.CheckEndpointID(args[len(args)-1]) != nil {
		return
	}
	if socket == "" {
		socket = DefaultSocket
	}
	ctx, cancel := context.WithTimeout(context.Background(), endedWait)
	defer cancel()
	_ = api.NewClient(socket).Detach(ctx, args[len(args)-1]) // see above: what nobody told is found
}
