package lab

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

//go:embed files/init.sh
var initScript string

//go:embed files/service.sh
var serviceScript string

// hostPath is the PATH of every process in a host. Its first directory is the lab's own.
const hostPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Host is one machine of the lab.
type Host struct {
	Name   string     // h1, h2, ...
	Number int        // 1, 2, ...
	Addr   netip.Addr // on the underlay

	roots roots // programs to run instead of the machine's
}

func newHost(k int, r roots) *Host {
	return &Host{Name: fmt.Sprintf("h%d", k), Number: k, Addr: underlayAddr(k), roots: r}
}

// Dir returns the machine's directory with the host's files: etc, lib, log.
func (h *Host) Dir() string { return filepath.Join(StateDir, h.Name) }

// Namespace returns the path of the host's network namespace on the machine.
func (h *Host) Namespace() string { return namespacePath(h.Name) }

// Pid returns the machine's pid of the host's first process, or 0 if the host is off.
// Killing that process acts like a power cut.
func (h *Host) Pid() int {
	pid, err := findInit(h.Name)
	if err != nil {
		return 0
	}
	return pid
}

// PowerOff simulates a power cut: it kills the host's first process and thereby all
// others. It returns when they are gone. The host's files stay.
func (h *Host) PowerOff(ctx context.Context) error {
	pid, err := findInit(h.Name)
	if err != nil {
		return err
	}
	start := startTime(pid)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if now := startTime(pid); now == "" || now != start {
			return nil
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("power off %s: %w", h.Name, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("power off %s: %w", h.Name, ctx.Err())
		case <-tick.C:
		}
	}
}

// Boot turns a host on again after PowerOff. Use Service to start its programs.
func (h *Host) Boot(ctx context.Context) error { return h.boot(ctx) }

// boot starts the first process and waits until it has set up the host.
func (h *Host) boot(ctx context.Context) error {
	logfile, err := os.OpenFile(filepath.Join(h.Dir(), "log", "init.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer logfile.Close()
	ready, child, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()

	// nsenter and the shell replace themselves by exec. So pid 1 of the new namespace
	// becomes tini, and no process outside represents it.
	cmd := exec.Command("nsenter", "--net="+h.Namespace(), "--",
		"sh", "-c", initScript, "init", h.Name, fmt.Sprint(h.Number), StateDir, Prefix, h.roots.Docker, h.roots.Podman)
	cmd.Env = append(hostEnv(), initMark+h.Name)
	cmd.Stdout, cmd.Stderr = logfile, logfile
	cmd.ExtraFiles = []*os.File{child} // descriptor 3
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	err = cmd.Start()
	child.Close()
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	go cmd.Wait() //nolint:errcheck // it ends when the host is turned off; reaping is all there is to do

	stop := context.AfterFunc(ctx, func() { ready.Close() })
	defer stop()
	said, err := io.ReadAll(ready)
	if strings.TrimSpace(string(said)) != "ok" {
		return errors.Join(fmt.Errorf("its first process gave up: %s", tail(logfile.Name(), 5)), err, ctx.Err())
	}
	return h.settled(ctx)
}

// settled waits until the first process has become tini. During the exec the kernel shows
// the process without an environment, so it would not be recognized.
func (h *Host) settled(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		pid, err := findInit(h.Name)
		if err == nil {
			comm, readErr := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			if readErr == nil && strings.TrimSpace(string(comm)) == "tini" {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("its first process did not become the reaper: %w", errors.Join(err, ctx.Err()))
		case <-tick.C:
		}
	}
}

// Command returns a command that runs on the host with the host's PATH and a minimal
// environment. It is killed when ctx ends. If the host is off, starting it fails.
func (h *Host) Command(ctx context.Context, args ...string) *exec.Cmd {
	pid, err := findInit(h.Name)
	if err != nil {
		cmd := exec.CommandContext(ctx, "nsenter")
		cmd.Err = err
		return cmd
	}
	// setpriv kills the command when nsenter ends, and ctx ends nsenter.
	enter := []string{
		"--target", fmt.Sprint(pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--",
		"setpriv", "--pdeathsig", "KILL", "--",
	}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
	cmd.Env = hostEnv()
	return cmd
}

// Exec runs a command on the host and returns its stdout. The error contains its stderr
// and wraps *exec.ExitError.
func (h *Host) Exec(ctx context.Context, args ...string) (string, error) {
	out, err := run(h.Command(ctx, args...))
	if err != nil {
		return out, fmt.Errorf("%s: %s: %w", h.Name, strings.Join(args, " "), err)
	}
	return out, nil
}

// Service starts, stops, kills or restarts one of ovsdb-server, ovs-vswitchd, consul and
// dockerd. It returns when that is done.
func (h *Host) Service(ctx context.Context, verb, service string) error {
	// Write the output to a file, because the daemon would keep a pipe open.
	out, err := os.CreateTemp(StateDir, "service-") // Down removes it there
	if err != nil {
		return err
	}
	defer out.Close()
	defer os.Remove(out.Name())
	cmd := h.Command(ctx, "lab-service", verb, service)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", verb, service, err, tail(out.Name(), 20))
	}
	return nil
}

// run runs a command and returns its stdout, and an error that contains its stderr. It
// waits at most 2 s for background processes that keep the pipes open.
func run(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = 2 * time.Second
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	if err != nil {
		if said := strings.TrimSpace(stderr.String()); said != "" {
			err = fmt.Errorf("%w: %s", err, said)
		}
	}
	return stdout.String(), err
}

// hostEnv returns the environment of a host's processes. It contains nothing from the
// caller, such as a proxy or DOCKER_HOST.
func hostEnv() []string {
	return []string{"PATH=" + hostPath, "HOME=/root", "LANG=C.UTF-8", "TERM=dumb"}
}

// tail returns the last lines of a file for an error message, or "" if it cannot be read.
func tail(path string, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	all := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
