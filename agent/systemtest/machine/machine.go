// Package machine makes whole machines that systemd runs: containers of a dockerd
// that has namespaces of its own, from a root file system that debootstrap's like
// made. What depends on boots, units and packages is tested on them. Unlike the
// lab's hosts they share no file with the machine they run on.
package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// flags make a container in which systemd, Open vSwitch and Docker run. Where
// the bounding set lacks CAP_SYS_RESOURCE --privileged is refused; this is as much.
var flags = []string{
	"--stop-signal", "SIGRTMIN+3", // systemd(1): power off
	"--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE",
	"--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined", "--security-opt", "systempaths=unconfined",
	"--device", "/dev/net/tun", "--cgroupns", "private",
	"--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp:exec",
	"--volume", "/var/lib/docker", // an overlay cannot lie on an overlay
}

// Machine is one that was started.
type Machine struct {
	Name string
	yard *Yard
}

// Start boots a machine and returns when its units are up.
func (y *Yard) Start(ctx context.Context, name string) (*Machine, error) {
	m, err := y.Create(ctx, name)
	if err != nil {
		return nil, err
	}
	return m, m.Boot(ctx)
}

// Create makes a machine, with more of docker create's flags, and does not boot it.
func (y *Yard) Create(ctx context.Context, name string, more ...string) (*Machine, error) {
	m := &Machine{Name: name, yard: y}
	create := slices.Concat([]string{"create", "--name", name, "--hostname", name}, flags, more)
	if _, err := y.docker(ctx, append(create, imageName, "/sbin/init")...); err != nil {
		return nil, err
	}
	// Docker mounts the control groups read-only; the Docker inside wants to write.
	for _, f := range []struct{ from, to string }{
		{"cgroups.conf", "/etc/systemd/system/docker.service.d"}, {"listing.sh", "/usr/local/sbin"},
	} {
		if err := m.put(ctx, f.from, f.to); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Boot starts a machine and returns when its units are up.
func (m *Machine) Boot(ctx context.Context) error {
	if err := m.Launch(ctx); err != nil {
		return err
	}
	return m.await(ctx)
}

// Launch starts a machine and waits for nothing.
func (m *Machine) Launch(ctx context.Context) error {
	_, err := m.yard.docker(ctx, "start", m.Name)
	return err
}

// await waits until systemd has started everything.
func (m *Machine) await(ctx context.Context) error {
	return until(ctx, time.Minute, func() error {
		out, err := m.Exec(ctx, "systemctl", "is-system-running")
		if state := strings.TrimSpace(out); state != "running" {
			return errors.Join(fmt.Errorf("%s is %q", m.Name, state), err)
		}
		return nil
	})
}

// Reboot turns the machine off and on again, in order, and returns when its units
// are up.
func (m *Machine) Reboot(ctx context.Context) error {
	if _, err := m.yard.docker(ctx, "restart", "--time", "60", m.Name); err != nil {
		return err
	}
	return m.await(ctx)
}

// Copy puts a file or directory of this machine into a directory of that one.
func (m *Machine) Copy(ctx context.Context, from, dir string) error {
	_, err := m.yard.docker(ctx, "cp", from, m.Name+":"+dir)
	return err
}

// Exec runs a program and gives what it printed; the error carries what it said.
func (m *Machine) Exec(ctx context.Context, args ...string) (string, error) {
	return m.yard.docker(ctx, append([]string{"exec", m.Name}, args...)...)
}

// Listing describes everything that a program could have left behind: files, units,
// settings of the kernel, rules, interfaces, the switch.
func (m *Machine) Listing(ctx context.Context) ([]string, error) {
	out, err := m.Exec(ctx, "bash", "/usr/local/sbin/listing.sh")
	return strings.Split(out, "\n"), err
}

// run gives a program's stdout, and an error that carries all it said.
func run(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = 2 * time.Second
	err := cmd.Run()
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return stdout.String(), fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// until repeats what fails until it does not, or time is up.
func until(ctx context.Context, limit time.Duration, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}
