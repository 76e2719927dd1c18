// Package lab makes a whole cluster on one machine with real parts: each host is
// a set of namespaces with its own Open vSwitch, Consul, dockerd and agent, on an
// underlay that is a Linux bridge in a namespace of its own.
//
// It owns everything named by Prefix and everything below StateDir, and takes all
// of it away again. It never changes the machine's own network configuration,
// and no traffic leaves the namespaces that it made. Several labs can be up on one
// machine when SOCKETPLANE_LAB in the environment names them apart.
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
	// StateDir holds all files of the lab: a directory a host, and the record
	// of what Down has to put back.
	StateDir = stateDir()
)

const (
	// MaxHosts is the most hosts that were seen to run on one small machine.
	MaxHosts = 32
	// Image is the name of the container image that each host has.
	Image = "lab"
)

// ErrUp says that a lab, or what a crash left of one, is there already.
var ErrUp = errors.New("a lab is up; scripts/lab down first")

// ErrDown says that no lab is up.
var ErrDown = errors.New("no lab is up; scripts/lab up first")

// Outside is the address that stands for the rest of the world. It knows the way
// back to the underlay and to nothing else: a container is answered only when its
// host masqueraded.
var Outside = netip.AddrFrom4([4]byte{203, 0, 113, 1})

// Options say what kind of lab is wanted.
type Options struct {
	Hosts    int       // 1..MaxHosts
	Bare     bool      // neither Consul nor the agent runs
	NoDocker bool      // no dockerd either
	Docker   string    // version of Docker, such as "28.5"; "" is what DockerEnv names, or else the machine's
	Podman   string    // version of Podman, such as "5.4"; "" is what PodmanEnv names, or else the machine's
	Keep     bool      // leave what there is when Up fails, for a look at it
	Root     string    // the module's root; "" searches upwards from the working directory
	Out      io.Writer // progress, a line a step; nil is silent
}

// Lab is a cluster that is up.
type Lab struct {
	hosts []*Host
	bare  bool
}

// Hosts are all hosts in order: the first is h1.
func (l *Lab) Hosts() []*Host { return l.hosts }

// Host is host number k, counted from 1 as in h1.
func (l *Lab) Host(k int) *Host { return l.hosts[k-1] }

// Up makes a lab and returns when everything in it is ready: agents too, with all
// their tunnels, unless the lab is bare. What it had made when it fails (unless
// opts.Keep says otherwise) or when ctx ends is taken away. It returns ErrUp if a lab is there already.
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

// Open finds the lab that is up. It returns ErrDown if there is none.
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

// Down takes the lab away.
func (l *Lab) Down(ctx context.Context) error { return Down(ctx) }

// builder carries what the steps of Up share.
type builder struct {
	opts     Options
	progress *progress
	image    string // path of the image's tar
	roots    roots  // what the hosts run instead of the machine's
}

// run is Up as a straight line. The order: the wire before the hosts, because a
// host's first process sets its end up; the agents last, because they need all of
// it.
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

// switches starts Open vSwitch everywhere, and Consul.
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

// dockers starts dockerd everywhere and gives it the image.
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

// each runs f for all hosts, at most limit at once (0: all), and joins the errors.
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
	_ = g.Wait() // the errors were collected
	return errors.Join(errs...)
}

// moduleRoot finds the directory whose bin/ holds what the hosts run.
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
