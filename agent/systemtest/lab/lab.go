// Package lab creates a whole cluster on one machine from real parts. Each host is a set
// of namespaces with its own Open vSwitch, Consul, dockerd and agent. The underlay is a
// Linux bridge in its own namespace.
//
// The package owns everything whose name starts with Prefix and everything below StateDir,
// and removes all of it again. It never changes the machine's own network configuration,
// and no traffic leaves its namespaces. Several labs can be up on one machine if
// SOCKETPLANE_LAB in the environment gives them different names.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

var (
	// Prefix starts the name of every network namespace and cgroup of the lab.
	Prefix = "splab" + instance
	// StateDir contains all files of the lab: one directory per host, and the record of
	// what Down must restore.
	StateDir = stateDir()
)

const (
	// MaxHosts is the largest number of hosts that has run on one small machine.
	MaxHosts = 32
	// Image is the name of the container image on each host.
	Image = "lab"
)

// ErrUp means that a lab, or the rest of a crashed one, exists already.
var ErrUp = errors.New("a lab is up; scripts/lab down first")

// ErrDown means that no lab is up.
var ErrDown = errors.New("no lab is up; scripts/lab up first")

// Outside is an address that represents the rest of the world. It has a route back to the
// underlay only, so it answers a container only if its host masquerades.
var Outside = netip.AddrFrom4([4]byte{203, 0, 113, 1})

// Options describe the lab to create.
type Options struct {
	Hosts    int       // 1..MaxHosts
	Bare     bool      // run neither Consul nor the agent
	NoDocker bool      // run no dockerd either
	Docker   string    // version of Docker, such as "28.5"; "": the one in DockerEnv, or else the machine's
	Podman   string    // version of Podman, such as "5.4"; "": the one in PodmanEnv, or else the machine's
	Keep     bool      // keep everything for inspection if Up fails
	Root     string    // root of the module; "": search upwards from the working directory
	Out      io.Writer // progress, one line per step; nil: none
}

// Lab is a cluster that is up.
type Lab struct {
	hosts []*Host
	bare  bool
}

// Hosts returns all hosts in order, starting with h1.
func (l *Lab) Hosts() []*Host { return l.hosts }

// Host returns host number k, counted from 1 as in h1.
func (l *Lab) Host(k int) *Host { return l.hosts[k-1] }

// Up creates a lab and returns when everything in it is ready. Unless the lab is bare,
// this includes the agents with all their tunnels. If Up fails or ctx ends, it removes
// what it has created; opts.Keep prevents this after a failure. It returns ErrUp if a lab
// exists already.
func Up(ctx context.Context, opts Options) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the lab needs root (namespaces, Open vSwitch, dockerd): run it with sudo")
	}
	if opts.Hosts < 1 || opts.Hosts > MaxHosts {
		return nil, fmt.Errorf("%d hosts: a lab has 1 to %d", opts.Hosts, MaxHosts)
	}
	if !instancePattern.MatchString(instance) {
		return nil, fmt.Errorf("%s is %q; a lab's name is 1 to 8 lower-case letters and digits", InstanceEnv, instance)
	}
	root, err := moduleRoot(opts.Root)
	if err != nil {
		return nil, err
	}
	opts.Root = root
	if opts.Docker == "" {
		opts.Docker = os.Getenv(DockerEnv)
	}
	if opts.Podman == "" {
		opts.Podman = os.Getenv(PodmanEnv)
	}
	if err := checkTools(opts); err != nil {
		return nil, err
	}
	r, err := findRoots(ctx, opts)
	if err != nil {
		return nil, err
	}
	if err := claim(opts, r); err != nil {
		return nil, err
	}

	b := &builder{opts: opts, progress: newProgress(opts.Out), roots: r}
	l, err := b.run(ctx)
	if err == nil {
		return l, nil
	}
	if opts.Keep && ctx.Err() == nil {
		b.progress.step("failed: kept as it is; scripts/lab down takes it away")
		return nil, err
	}
	b.progress.step("failed: taking down what was made")
	cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return nil, errors.Join(err, Down(cleanup))
}

// Open returns the lab that is up. It returns ErrDown if there is none.
func Open() (*Lab, error) {
	m, err := loadManifest()
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrDown
	}
	if err != nil {
		return nil, err
	}
	l := &Lab{bare: m.Bare}
	for k := 1; k <= m.Hosts; k++ {
		l.hosts = append(l.hosts, newHost(k, m.Roots))
	}
	return l, nil
}

// Down removes the lab.
func (l *Lab) Down(ctx context.Context) error { return Down(ctx) }

// builder contains the state that the steps of Up share.
type builder struct {
	opts     Options
	progress *progress
	image    string // path of the image's tar file
	roots    roots  // programs to run instead of the machine's
}

// run performs the steps of Up in order. The underlay comes before the hosts, because a
// host's first process configures its end of it. The agents come last, because they need
// everything else.
func (b *builder) run(ctx context.Context) (*Lab, error) {
	l := &Lab{bare: b.opts.Bare}
	for k := 1; k <= b.opts.Hosts; k++ {
		l.hosts = append(l.hosts, newHost(k, b.roots))
	}
	if err := b.machine(); err != nil {
		return nil, err
	}
	if err := makeUnderlay(ctx, l.hosts, !b.opts.Bare); err != nil {
		return nil, err
	}
	b.progress.step("underlay: 198.18.0.0/24, outside %s", Outside)

	if err := b.files(l); err != nil {
		return nil, err
	}
	if err := each(l.hosts, 8, func(h *Host) error { return h.boot(ctx) }); err != nil {
		return nil, err
	}
	b.progress.step("%d hosts: namespaces, own /run, /etc and /var/lib", len(l.hosts))

	var services errgroup.Group
	services.Go(func() error { return b.switches(ctx, l) })
	if !b.opts.NoDocker {
		services.Go(func() error { return b.dockers(ctx, l) })
	}
	if err := services.Wait(); err != nil {
		return nil, err
	}
	if b.opts.Bare {
		return l, nil
	}
	return l, b.agents(ctx, l)
}

// switches starts Open vSwitch on all hosts, and Consul unless the lab is bare.
func (b *builder) switches(ctx context.Context, l *Lab) error {
	err := each(l.hosts, 8, func(h *Host) error {
		return errors.Join(h.Service(ctx, "start", "ovsdb-server"), h.Service(ctx, "start", "ovs-vswitchd"))
	})
	if err != nil {
		return err
	}
	b.progress.step("Open vSwitch")
	if b.opts.Bare {
		return nil
	}
	if err := each(l.hosts, 0, func(h *Host) error { return h.Service(ctx, "start", "consul") }); err != nil {
		return err
	}
	if err := each(l.hosts, 0, func(h *Host) error { return awaitLeader(ctx, h) }); err != nil {
		return err
	}
	b.progress.step("Consul: %d servers, a leader", consulServers(len(l.hosts)))
	return nil
}

// dockers starts dockerd on all hosts and imports the image.
func (b *builder) dockers(ctx context.Context, l *Lab) error {
	var err error
	if b.image, err = imageTar(b.opts.Root); err != nil {
		return err
	}
	err = each(l.hosts, 8, func(h *Host) error {
		if err := h.Service(ctx, "start", "dockerd"); err != nil {
			return err
		}
		return h.importImage(ctx, b.image)
	})
	if err != nil {
		return err
	}
	b.progress.step("%s, image %q", strings.TrimSpace("dockerd "+b.opts.Docker), Image)
	return nil
}

// each runs f for all hosts, at most limit at once (0: no limit), and joins the errors.
func each(hosts []*Host, limit int, f func(*Host) error) error {
	var (
		g    errgroup.Group
		mu   sync.Mutex
		errs []error
	)
	if limit > 0 {
		g.SetLimit(limit)
	}
	for _, h := range hosts {
		g.Go(func() error {
			if err := f(h); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("host %s: %w", h.Name, err))
			}
			return nil
		})
	}
	_ = g.Wait() // the errors are in errs
	return errors.Join(errs...)
}

// moduleRoot returns the absolute path of the module's root, whose bin/ contains the
// programs for the hosts.
func moduleRoot(dir string) (string, error) {
	if dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "scripts", "lab")); err == nil {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("%s is not inside the module: say where its root is", dir)
		}
	}
}
