package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/socketplane/socketplane/agent/jsonobject"
	"github.com/socketplane/socketplane/agent/oci"
	"github.com/socketplane/socketplane/agent/wholefile"
)

// RuntimeName is the name of our runtime in Docker (docker run --runtime).
const RuntimeName = "socketplane"

// maxDaemonJSON bounds dockerd's configuration file, in bytes.
const maxDaemonJSON = 1 << 20

// Registration describes how to register our runtime with dockerd.
type Registration struct {
	DaemonJSON  string // dockerd's configuration file, such as /etc/docker/daemon.json
	PIDFile     string // of dockerd; empty: /var/run/docker.pid
	Host        string // address of dockerd, such as unix:///run/docker.sock
	RuntimePath string // path from InstallRuntime
	Socket      string // of the agent; empty: oci.DefaultSocket
	Logger      *slog.Logger
}

// runtimeEntry is one runtime in daemon.json and in docker info.
type runtimeEntry struct {
	Path        string   `json:"path"`
	RuntimeArgs []string `json:"runtimeArgs,omitempty"`
}

func (e runtimeEntry) equal(o runtimeEntry) bool {
	return e.Path == o.Path && slices.Equal(e.RuntimeArgs, o.RuntimeArgs)
}

// ErrNotAnswering means that dockerd runs but does not answer. For example, it is starting
// and waits for containers to come back.
var ErrNotAnswering = errors.New("dockerd does not answer")

// answerTimeout bounds how long dockerd may take to answer before Register returns
// ErrNotAnswering.
const answerTimeout = time.Second

// Register adds our runtime to daemon.json, keeps everything else in it, and makes a
// running dockerd reload it. On return, a running dockerd knows the runtime. If Register
// returns ErrNotAnswering, the caller must call it again later.
func Register(ctx context.Context, r Registration) error {
	entry := runtimeEntry{Path: r.RuntimePath}
	if r.Socket != "" && r.Socket != oci.DefaultSocket {
		entry.RuntimeArgs = []string{oci.SocketFlag + r.Socket}
	}
	changed, err := r.edit(func(config, runtimes *jsonobject.Object) error {
		raw, err := json.Marshal(entry)
		if err != nil {
			return fmt.Errorf("runtime entry: %w", err)
		}
		runtimes.Set(RuntimeName, raw)
		config.Set("runtimes", runtimes.Bytes())
		return nil
	})
	if err != nil {
		return err
	}
	return r.reload(ctx, changed, func(known map[string]runtimeEntry) bool {
		have, ok := known[RuntimeName]
		return ok && have.equal(entry)
	})
}

// Unregister removes our runtime from daemon.json. Containers that were created with it
// cannot be started afterwards.
func Unregister(ctx context.Context, r Registration) error {
	// dockerd drops a runtime only when it reads a list without it. So write an empty list
	// first, and remove it when dockerd has read it.
	changed, err := r.edit(func(config, runtimes *jsonobject.Object) error {
		if runtimes.Get(RuntimeName) != nil {
			runtimes.Remove(RuntimeName)
			config.Set("runtimes", runtimes.Bytes())
		}
		return nil
	})
	if err != nil || !changed {
		return err
	}
	err = r.reload(ctx, true, func(known map[string]runtimeEntry) bool {
		_, ok := known[RuntimeName]
		return !ok
	})
	if err != nil {
		return err
	}
	_, err = r.edit(func(config, runtimes *jsonobject.Object) error {
		if runtimes.Len() == 0 {
			config.Remove("runtimes")
		}
		return nil
	})
	return err
}

// edit changes the runtimes in daemon.json. It writes the file only if its meaning
// changes, and never if it is not valid JSON.
func (r Registration) edit(change func(config, runtimes *jsonobject.Object) error) (changed bool, err error) {
	path := r.DaemonJSON
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // write the target and keep the link
	}
	mode := os.FileMode(0o644)
	data, err := wholefile.Read(path, maxDaemonJSON)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return false, fmt.Errorf("docker's configuration: %w", err)
		}
	case err != nil:
		return false, fmt.Errorf("docker's configuration: %w", err)
	default:
		if info, err := os.Stat(path); err == nil {
			mode = info.Mode().Perm()
		}
	}
	mended, err := editRuntimes(data, change)
	if err != nil {
		return false, fmt.Errorf("docker's configuration %s, mend it first: %w", path, err)
	}
	if mended == nil {
		return false, nil
	}
	return true, wholefile.Replace(path, mended, mode, true)
}

// editRuntimes returns the changed text, or nil if nothing changes.
func editRuntimes(data []byte, change func(config, runtimes *jsonobject.Object) error) ([]byte, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		data = []byte("{}")
	}
	config, err := jsonobject.Parse(data)
	if err != nil {
		return nil, err
	}
	runtimes, err := config.Child("runtimes")
	if err != nil {
		return nil, err
	}
	before := compact(config.Bytes())
	if err := change(config, runtimes); err != nil {
		return nil, err
	}
	if bytes.Equal(before, compact(config.Bytes())) {
		return nil, nil
	}
	var out bytes.Buffer
	if err := json.Indent(&out, config.Bytes(), "", "  "); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

func compact(raw json.RawMessage) []byte {
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		return raw
	}
	return b.Bytes()
}

// reload makes dockerd reload its configuration and waits until docker info shows the
// wanted state (done). It does nothing if dockerd does not run, because dockerd reads the
// configuration when it starts.
func (r Registration) reload(ctx context.Context, changed bool, done func(known map[string]runtimeEntry) bool) error {
	pid, err := r.dockerd()
	if err != nil {
		return err
	}
	if pid == 0 {
		r.Logger.Info("dockerd does not run; it reads the runtime when it starts")
		return nil
	}
	engine, err := Dial(r.Host)
	if err != nil {
		return err
	}
	defer engine.Close() //nolint:errcheck // only read from
	// A dockerd that is still starting does not answer, and a SIGHUP would end it.
	first, cancelFirst := context.WithTimeout(ctx, answerTimeout)
	known, err := engine.runtimes(first)
	cancelFirst()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotAnswering, err)
	}
	if !changed && done(known) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
		return fmt.Errorf("tell dockerd (pid %d) to read its configuration: %w", pid, err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		known, err := engine.runtimes(ctx)
		if err == nil && done(known) {
			r.Logger.Info("dockerd has read its configuration again")
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("dockerd has not taken over the runtimes of %s; see dockerd's log", r.DaemonJSON)
		case <-tick.C:
		}
	}
}

// dockerd returns the pid of dockerd, or 0 if it does not run.
func (r Registration) dockerd() (int, error) {
	path := r.PIDFile
	if path == "" {
		path = "/var/run/docker.pid"
	}
	data, err := wholefile.Read(path, 64)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("docker's pid file: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 {
		return 0, nil //nolint:nilerr // half-written: it is just starting
	}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil || strings.TrimSpace(string(comm)) != "dockerd" {
		return 0, nil //nolint:nilerr // left by one that died
	}
	return pid, nil
}
