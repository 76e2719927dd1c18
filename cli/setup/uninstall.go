package setup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Uninstall describes what to remove.
type Uninstall struct {
	Self       string // path of this program
	StateDir   string
	DaemonJSON string
	LogFile    string
	Socket     string // of the agent
	Locks      string // directory of the agent's locks
	Plugin     string // socket of Docker's plugin
	Force      bool   // even if containers are attached
	Purge      bool   // also remove settings and state

	// Steps that need parts of the agent. Each returns a description of what it did.
	Attached       func() (int, error)                       // counts the endpoints that have an interface
	Leave          func(ctx context.Context) (string, error) // leaves the cluster while the agent runs
	StopAgent      func(ctx context.Context) (string, error) // stops an agent that systemd does not run
	DockerNetworks func(ctx context.Context) (string, error)
	DockerRuntime  func(ctx context.Context) (string, error)
	CNI            func() (string, error)
	Network        func(ctx context.Context) (string, error) // bridge, links, rules
}

// Uninstall returns the steps that restore the host. They stop the agent before they
// remove what it would create again.
func (h *Host) Uninstall(un Uninstall) []Step {
	packaged := h.Packaged(un.Self)
	call := func(f func(context.Context) (string, error)) func(context.Context) (string, error) { return f }
	steps := []Step{
		{Name: "containers", Do: func(context.Context) (string, error) { return "", refuseAttached(un) }},
		{Name: "cluster", Do: call(un.Leave)},
		h.removeUnits(packaged),
		{Name: "agent", Do: call(un.StopAgent)},
		{Name: "docker networks", Remedy: "see: systemctl status docker", Do: call(un.DockerNetworks)},
		{Name: "docker runtime", Remedy: "see: systemctl status docker", Do: func(ctx context.Context) (string, error) { return h.dockerRuntime(ctx, un) }},
		{Name: "CNI", Do: func(context.Context) (string, error) { return un.CNI() }},
		{Name: "network", Do: call(un.Network)},
		{Name: "kernel", Do: func(context.Context) (string, error) { return h.restoreKernel(un.StateDir) }},
		{Name: "files", Do: func(context.Context) (string, error) { return h.removeFiles(un, packaged) }},
	}
	if !packaged {
		steps = append(steps, Step{Name: "group", Do: func(ctx context.Context) (string, error) { return h.removeGroup(ctx, un.StateDir) }})
	}
	return append(steps, Step{Name: "rest", Do: func(context.Context) (string, error) { return h.rest(un) }})
}

// refuseAttached returns an error while endpoints of the host have an interface, unless
// Force is set.
func refuseAttached(un Uninstall) error {
	if un.Force {
		return nil
	}
	n, err := un.Attached()
	if err != nil || n == 0 {
		return err
	}
	return fmt.Errorf("containers are attached (%d, see: socketplane info); stop them first, or use --force, and they lose their network", n)
}

// dockerRuntime removes the runtime from daemon.json. It also removes the file if it is
// empty and did not exist before the installation.
func (h *Host) dockerRuntime(ctx context.Context, un Uninstall) (string, error) {
	said, err := un.DockerRuntime(ctx)
	if err != nil {
		return "", err
	}
	r, err := h.record(un.StateDir)
	if err != nil {
		return "", err
	}
	path := h.path(un.DaemonJSON)
	data, err := readFile(path)
	if err != nil {
		return "", err
	}
	if r.Version != 0 && !r.DaemonJSON && strings.TrimSpace(string(data)) == "{}" {
		if err := os.Remove(path); err != nil {
			return "", err
		}
		said += ", removed " + un.DaemonJSON
	}
	return said, nil
}

// restoreKernel restores the kernel settings.
func (h *Host) restoreKernel(stateDir string) (string, error) {
	r, err := h.record(stateDir)
	if err != nil {
		return "", err
	}
	var said []string
	for _, name := range restored {
		before, ok := r.Sysctls[name]
		path := h.path("/proc/sys/" + name)
		now, err := os.ReadFile(path)
		if !ok || err != nil || strings.TrimSpace(string(now)) == before {
			continue
		}
		dotted := strings.ReplaceAll(name, "/", ".")
		if name == ipForward && h.DockerRuns() {
			said = append(said, dotted+" stays 1: Docker needs it")
			continue
		}
		if err := setValue(path, before); err != nil {
			return "", err
		}
		said = append(said, dotted+" is "+before+" again")
	}
	return strings.Join(said, ", "), nil
}

// DockerRuns reports whether dockerd is running on this host.
func (h *Host) DockerRuns() bool {
	pid, err := readFile(h.path("/run/docker.pid"))
	if err != nil || len(pid) == 0 {
		return false
	}
	_, err = os.Stat(h.path("/proc/" + strings.TrimSpace(string(pid))))
	return err == nil
}

// removeFiles removes the files that install and the agent created in shared directories.
func (h *Host) removeFiles(un Uninstall, packaged bool) (string, error) {
	r, err := h.record(un.StateDir)
	if err != nil {
		return "", err
	}
	names, err := h.locks(un.Locks)
	if err != nil {
		return "", err
	}
	names = append(names,
		un.Plugin,
		un.Socket, filepath.Join(filepath.Dir(un.Socket), "agent.pid"), filepath.Dir(un.Socket),
		filepath.Join(un.StateDir, "bin", "socketplane-runc"), filepath.Join(un.StateDir, "bin"),
		modulesFile,
	)
	if !h.DockerRuns() { // otherwise the directory is dockerd's
		names = append(names, filepath.Dir(un.Plugin), filepath.Dir(filepath.Dir(un.Plugin)))
	}
	if r.Consul == ConsulProgram { // the record must never cause the removal of any other file
		names = append(names, ConsulProgram)
	}
	if !packaged {
		names = append(names, sysctlFile)
		for _, shell := range shells {
			names = append(names, completions[shell], filepath.Dir(completions[shell]))
		}
		names = append(append(names, otherNames...), netavarkDir, Program)
	}
	removed, err := h.remove(names...)
	if err != nil || len(removed) == 0 {
		return "", err
	}
	return "removed " + strings.Join(removed, " "), nil
}

// locks returns the lock files of the agent and their directory.
func (h *Host) locks(dir string) ([]string, error) {
	if dir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(h.path(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".lock") {
			names = append(names, filepath.Join(dir, e.Name()))
		}
	}
	return append(names, dir), nil
}

// removeGroup removes the group unless it existed before the installation.
func (h *Host) removeGroup(ctx context.Context, stateDir string) (string, error) {
	r, err := h.record(stateDir)
	if err != nil || r.Version == 0 || r.Group || !h.groupExists() {
		return "", err
	}
	if _, err := h.Command.Run(ctx, "groupdel", Group); err != nil {
		return "", err
	}
	return "removed " + Group, nil
}

// rest removes the settings and the state, or reports that they stay. It also reports
// which packages stay.
func (h *Host) rest(un Uninstall) (string, error) {
	r, err := h.record(un.StateDir)
	if err != nil && !un.Purge {
		return "", err
	}
	var said []string
	if un.Purge {
		gone, err := h.purge(un)
		if err != nil {
			return "", err
		}
		said = append(said, gone)
	} else {
		// So that the next installation records the state of the host again.
		if _, err := h.remove(filepath.Join(un.StateDir, recordFile)); err != nil {
			return "", err
		}
		said = append(said, "settings ("+filepath.Dir(ConfigFile)+") and state ("+un.StateDir+") stay; --purge removes them, too")
	}
	if len(r.Packages) > 0 {
		said = append(said, "packages that install brought stay, others may use them by now: apt-get purge "+strings.Join(r.Packages, " "))
	}
	return strings.Join(said, "; "), nil
}

// purge removes the settings, the log and the state. It keeps a state directory that is
// not named socketplane, because that may contain more than the state.
func (h *Host) purge(un Uninstall) (string, error) {
	if err := os.RemoveAll(h.path(filepath.Dir(ConfigFile))); err != nil {
		return "", err
	}
	if _, err := h.remove(un.LogFile); err != nil {
		return "", err
	}
	if filepath.Base(un.StateDir) != "socketplane" {
		return "settings and log are gone; state (" + un.StateDir + ") stays, since it is not called socketplane: remove it by hand", nil
	}
	return "settings, state and log are gone", os.RemoveAll(h.path(un.StateDir))
}
