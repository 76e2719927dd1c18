package setup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Commander runs programs without a shell.
type Commander interface {
	// Find returns the path of a program. It fails if the host does not have it.
	Find(name string) (string, error)
	// Run runs a program until it ends and returns its standard output. The error contains
	// the last lines of its output.
	Run(ctx context.Context, name string, args ...string) (string, error)
}

// Programs runs programs on this machine.
type Programs struct {
	Env []string // added to the environment
}

// systemDirs are directories of programs that may be missing in a user's PATH.
var systemDirs = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// Find searches the PATH first, and then systemDirs.
func (Programs) Find(name string) (string, error) {
	path, err := exec.LookPath(name)
	for _, dir := range systemDirs {
		if err == nil {
			return path, nil
		}
		path, err = exec.LookPath(dir + "/" + name)
	}
	return path, err
}

// Run implements Commander.
func (p Programs) Run(ctx context.Context, name string, args ...string) (string, error) {
	path, err := p.Find(name)
	if err != nil {
		return "", fmt.Errorf("%s was not found", name)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), p.Env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// A daemon that a package starts may keep the pipes open.
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return stdout.String(), fmt.Errorf("%s failed (%w): %s", name, err, lastLines(stdout.String()+"\n"+stderr.String(), 3))
	}
	return stdout.String(), nil
}

// lastLines returns the last n nonempty lines, joined to one.
func lastLines(text string, n int) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		return "it said nothing"
	}
	return strings.Join(lines[max(0, len(lines)-n):], "; ")
}

// tellEvery is the interval of progress messages.
const tellEvery = 15 * time.Second

// telling runs a long operation and prints the elapsed time at intervals.
func (h *Host) telling(what string, do func() error) error {
	start := time.Now()
	done := make(chan error, 1)
	go func() { done <- do() }()
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			fmt.Fprintf(h.Out, "  %s: %d s ...\n", what, int(time.Since(start).Seconds()))
		}
	}
}
