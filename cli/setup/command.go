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

// Commander runs programs; their arguments never pass a shell.
type Commander interface {
	// Find gives a program's path; an error when the host lacks it.
	Find(name string) (string, error)
	// Run runs a program to its end and gives what it printed on stdout. The error
	// carries the last lines of what it said.
	Run(ctx context.Context, name string, args ...string) (string, error)
}

// Programs runs the programs of this machine.
type Programs struct {
	Env []string // added to the environment
}

// systemDirs hold programs that a user's PATH may lack.
var systemDirs = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// Find looks at the PATH, then where the system has its programs.
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

// Run runs a program of this machine.
func (p Programs) Run(ctx context.Context, name string, args ...string) (string, error) {
	path, err := p.Find(name)
	if err != nil {
		return "", fmt.Errorf("%s was not found", name)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), p.Env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// A daemon that a package starts may keep the pipes.
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return stdout.String(), fmt.Errorf("%s failed (%w): %s", name, err, lastLines(stdout.String()+"\n"+stderr.String(), 3))
	}
	return stdout.String(), nil
}

// lastLines are the last n lines with anything on them, as one.
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

// tellEvery is how often somebody who waits is told that it goes on.
const tellEvery = 15 * time.Second

// telling runs something long and says now and then how long it has taken.
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
