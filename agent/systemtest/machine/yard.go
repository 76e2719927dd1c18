package machine

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

//go:embed files
var files embed.FS

// imageName is the image of every machine, in the yard's own dockerd.
const imageName = "machine:1"

// cgroupParent holds the control groups of all machines.
const cgroupParent = "socketplane-machines"

// Yard is where machines stand: a dockerd with namespaces of its own, and all
// its files in one directory. Machines reach each other, and nothing else.
type Yard struct {
	dir string
	cmd *exec.Cmd
}

// Open starts the yard's dockerd and gives it the machines' image, of a kind that
// scripts/machine-image.sh knows. root is the module's directory, in whose bin/ the
// image is kept.
func Open(ctx context.Context, root, kind string) (*Yard, error) {
	image, err := BuildImage(ctx, root, kind)
	if err != nil {
		return nil, err
	}
	y, err := OpenEmpty(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := y.docker(ctx, "import", image, imageName); err != nil {
		return nil, errors.Join(err, y.Close(ctx))
	}
	return y, nil
}

// OpenEmpty starts the yard's dockerd, with no image.
func OpenEmpty(ctx context.Context) (*Yard, error) {
	dir, err := os.MkdirTemp("/var/tmp", "socketplane-machine-")
	if err != nil {
		return nil, err
	}
	y := &Yard{dir: dir}
	if err := y.start(ctx); err != nil {
		return nil, errors.Join(err, y.Close(ctx))
	}
	return y, nil
}

// Command is a program of this machine that finds the yard's Docker, and what its
// containers publish.
func (y *Yard) Command(ctx context.Context, args ...string) *exec.Cmd {
	net := fmt.Sprintf("--net=/proc/%d/ns/net", y.cmd.Process.Pid)
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{net, "--"}, args...)...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+y.socket())
	return cmd
}

func (y *Yard) start(ctx context.Context) error {
	log, err := os.Create(filepath.Join(y.dir, "dockerd.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	// All that dockerd starts is in a pid namespace, and ends with its first process.
	y.cmd = exec.Command("unshare", "--net", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc",
		"sh", "-c", `ip link set lo up && exec tini -- dockerd "$@"`, "dockerd",
		"--data-root", y.dir+"/data", "--exec-root", y.dir+"/exec", "--pidfile", y.dir+"/pid",
		"--host", "unix://"+y.socket(), "--bip", "198.18.64.1/24", "--cgroup-parent", cgroupParent)
	y.cmd.Stdout, y.cmd.Stderr = log, log
	y.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := y.cmd.Start(); err != nil {
		return err
	}
	err = until(ctx, time.Minute, func() error {
		_, err := y.docker(ctx, "version")
		return err
	})
	if err != nil {
		said, _ := os.ReadFile(log.Name())
		return fmt.Errorf("the yard's dockerd does not answer: %w: %s", err, said)
	}
	return nil
}

func (y *Yard) socket() string { return y.dir + "/docker.sock" }

func (y *Yard) docker(ctx context.Context, args ...string) (string, error) {
	return run(exec.CommandContext(ctx, "docker", append([]string{"--host", "unix://" + y.socket()}, args...)...))
}

// Close ends all machines and takes everything away.
func (y *Yard) Close(ctx context.Context) error {
	var err error
	if y.cmd != nil && y.cmd.Process != nil {
		err = y.removeAll(ctx)
		_ = y.cmd.Process.Kill() // unshare takes its child with it
		_ = y.cmd.Wait()         // it was killed
	}
	err = errors.Join(err, until(ctx, 10*time.Second, func() error { return os.RemoveAll(y.dir) }))
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + cgroupParent)
	for _, g := range append(groups, "/sys/fs/cgroup/"+cgroupParent) {
		_ = os.Remove(g) // another yard may use it
	}
	return err
}

// removeAll removes the machines with their volumes.
func (y *Yard) removeAll(ctx context.Context) error {
	out, err := y.docker(ctx, "ps", "--all", "--quiet")
	if err != nil {
		return nil //nolint:nilerr // it never answered: there are none
	}
	for _, id := range strings.Fields(out) {
		if _, rmErr := y.docker(ctx, "rm", "--force", "--volumes", id); rmErr != nil {
			err = errors.Join(err, rmErr)
		}
	}
	return err
}

// put copies one of our own files into a directory of the machine, which may be new.
func (m *Machine) put(ctx context.Context, name, dir string) error {
	data, err := files.ReadFile("files/" + name)
	if err != nil {
		return err
	}
	return m.Write(ctx, filepath.Join(dir, name), 0o644, data)
}

// Write writes a file of the machine, which needs not be booted; its directory may
// be new.
func (m *Machine) Write(ctx context.Context, path string, mode os.FileMode, data []byte) error {
	// docker cp makes no directory but the last of what it copies.
	tree, err := os.MkdirTemp(m.yard.dir, "put-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tree)                      //nolint:errcheck // goes with the yard
	if err := os.Chmod(tree, 0o755); err != nil { // it becomes the machine's root directory
		return err
	}
	if err := os.MkdirAll(filepath.Join(tree, filepath.Dir(path)), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tree, path), data, mode); err != nil {
		return err
	}
	return m.Copy(ctx, tree+"/.", "/")
}
