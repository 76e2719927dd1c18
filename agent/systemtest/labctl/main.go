// Labctl is the command line of the lab; scripts/lab builds and calls it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

const usage = `usage: scripts/lab COMMAND
  up [N] [OPTION...] start N hosts (3 unless said, 32 at most), joined into one cluster;
                     --bare: Consul and the agent are there and do not run;
                     --docker 26.1|28.5, --podman 5.4|5.8: with that Docker or Podman
                     (made from Debian's mirror, once);
                     --keep: when it fails, leave what there is for a look at it
  exec hK CMD...     run a command on host hK (or in ul, the underlay, or out, the outside)
  status             show the hosts
  down               take everything away, also after a crash
`

// errUsage says that the command line was wrong: exit status 2.
var errUsage = errors.New("used wrongly")

func main() {
	status, err := command(os.Args[1:])
	if err != nil {
		if errors.Is(err, errUsage) {
			fmt.Fprint(os.Stderr, usage)
			os.Exit(2)
		}
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
	os.Exit(status)
}

// command runs one subcommand and gives the exit status.
func command(args []string) (int, error) {
	if len(args) == 0 {
		return 0, errUsage
	}
	switch args[0] {
	case "up":
		return 0, up(args[1:])
	case "exec":
		if len(args) < 3 {
			return 0, errUsage
		}
		return lab.Enter(args[1], args[2:])
	case "status":
		l, err := lab.Open()
		if err != nil {
			return 0, err
		}
		return 0, l.Status(os.Stdout)
	case "down":
		return 0, down()
	case "help", "-h", "--help":
		fmt.Print(usage)
		return 0, nil
	}
	return 0, errUsage
}

func up(args []string) error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	opts := lab.Options{Hosts: 3, Root: root, Out: os.Stdout}
	counted := false
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch a {
		case "--docker":
			if i++; i == len(args) {
				return errUsage
			}
			opts.Docker = args[i]
			continue
		case "--podman":
			if i++; i == len(args) {
				return errUsage
			}
			opts.Podman = args[i]
			continue
		case "--bare":
			opts.Bare = true
			continue
		case "--keep":
			opts.Keep = true
			continue
		}
		n, err := strconv.Atoi(a)
		if err != nil || counted {
			return errUsage
		}
		opts.Hosts, counted = n, true
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	l, err := lab.Up(ctx, opts)
	if err != nil {
		return err
	}
	return l.Status(os.Stdout)
}

func down() error {
	start := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := lab.Down(ctx); err != nil {
		return err
	}
	fmt.Printf("%6.1f s  the lab is gone\n", time.Since(start).Seconds())
	return nil
}

// moduleRoot is the directory above bin/, in which this program was built.
func moduleRoot() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	return filepath.Dir(filepath.Dir(self)), nil
}
