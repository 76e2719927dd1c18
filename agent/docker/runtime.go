package docker

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// RuntimeName is what Docker calls our runtime (docker run --runtime).
const RuntimeName = "socketplane"

// RuntimeProgram is the name under which this program is that runtime.
const RuntimeProgram = "socketplane-runc"

// socketFlag is our own flag among the runtime's arguments. Docker passes it
// from daemon.json where the agent's socket is not at its usual place.
const socketFlag = "--socketplane-socket="

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
	if bundle, ok := bundleOf(args); ok {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("path of this program: %w", err)
		}
		if err := injectHooks(filepath.Join(bundle, "config.json"), self, socket); err != nil {
			return err
		}
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
		if value, ok := strings.CutPrefix(arg, socketFlag); ok {
			socket = value
			continue
		}
		rest = append(rest, arg)
	}
	return rest, socket
}

// bundleOf gives the bundle that the command line creates a container from;
// false when it does something else. runc's flags are those of urfave/cli:
// -x v, --x v or --x=v, global ones before the subcommand.
func bundleOf(args []string) (string, bool) {
	valued := map[string]bool{"log": true, "log-format": true, "root": true, "criu": true, "rootless": true}
	i := 0
	for ; i < len(args) && strings.HasPrefix(args[i], "-"); i++ {
		if valued[strings.TrimLeft(args[i], "-")] {
			i++
		}
	}
	if i >= len(args) || (args[i] != "create" && args[i] != "run") {
		return "", false
	}
	bundle := "." // runc's default
	for i++; i < len(args) && strings.HasPrefix(args[i], "-"); i++ {
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
	return bundle, true
}
