package nat

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// stopDelay is how long a program may take to end after its ctx did.
const stopDelay = 2 * time.Second

// commands are the absolute paths of the iptables programs.
type commands struct {
	savePath, restorePath string
}

// findCommands looks in the PATH, and where a daemon's short PATH often lacks
// them.
func findCommands() (commands, error) {
	return findIn("", "/usr/sbin/", "/sbin/")
}

// findIn looks in the given directories; the empty one stands for the PATH.
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

// save reads the present rules of all tables.
func (c commands) save(ctx context.Context) (ruleset, error) {
	out, err := run(exec.CommandContext(ctx, c.savePath), nil)
	if err != nil {
		return nil, err
	}
	return parseSave(out), nil
}

// restore changes what input says and leaves the rest. --wait has it queue for
// the xtables lock that others, such as dockerd, may hold; ctx bounds that.
func (c commands) restore(ctx context.Context, input string, own *writers) error {
	cmd := exec.CommandContext(ctx, c.restorePath, "--noflush", "--wait")
	cmd.Stdin = strings.NewReader(input)
	_, err := run(cmd, own)
	return err
}

// run runs a program, and counts it among own unless that is nil.
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

// firstLines keeps an error message short: programs may repeat themselves.
func firstLines(s string) string {
	const most = 400
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > most {
		s = s[:most] + "..."
	}
	return s
}
