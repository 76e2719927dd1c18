package nat

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// stopDelay limits the time that a program may take to exit after its ctx ended.
const stopDelay = 2 * time.Second

// commands are the absolute paths of the iptables programs.
type commands struct {
	savePath, restorePath string
}

// findCommands searches the PATH and directories that the short PATH of a daemon often
// lacks.
func findCommands() (commands, error) {
	return findIn("", "/usr/sbin/", "/sbin/")
}

// findIn searches the given directories; "" means the PATH.
func findIn(dirs ...string) (commands, error) {
	var found [2]string
	for i, name := range []string{"iptables-save", "iptables-restore"} {
		for _, dir := range dirs {
			if path, err := exec.LookPath(dir + name); err == nil {
				found[i] = path
				break
			}
		}
		if found[i] == "" {
			return commands{}, fmt.Errorf("%s: %w", name, ErrNoIptables)
		}
	}
	return commands{savePath: found[0], restorePath: found[1]}, nil
}

// save returns the current rules of all tables.
func (c commands) save(ctx context.Context) (ruleset, error) {
	out, err := run(exec.CommandContext(ctx, c.savePath), nil)
	if err != nil {
		return nil, err
	}
	return parseSave(out), nil
}

// restore applies input and leaves all other rules. With --wait it waits for the xtables
// lock, which others such as dockerd may hold, until ctx ends.
func (c commands) restore(ctx context.Context, input string, own *writers) error {
	cmd := exec.CommandContext(ctx, c.restorePath, "--noflush", "--wait")
	cmd.Stdin = strings.NewReader(input)
	_, err := run(cmd, own)
	return err
}

// run runs a program and returns its output. It adds the process to own unless own is
// nil.
func run(cmd *exec.Cmd, own *writers) ([]byte, error) {
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	cmd.WaitDelay = stopDelay
	err := cmd.Start()
	if err == nil {
		defer own.add(cmd.Process.Pid)()
		err = cmd.Wait()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", cmd.Path, err, firstLines(complaint.String()))
	}
	return out.Bytes(), nil
}

// firstLines shortens an error message, because programs may repeat themselves.
func firstLines(s string) string {
	const most = 400
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > most {
		s = s[:most] + "..."
	}
	return s
}
