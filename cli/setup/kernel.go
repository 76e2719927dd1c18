package setup

import (
	"context"
	_ "embed"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	sysctlFile  = "/etc/sysctl.d/60-socketplane.conf"
	modulesFile = "/etc/modules-load.d/socketplane.conf"
)

//go:embed files/sysctl.conf
var sysctlText string

//go:embed files/sysctl-userspace.conf
var sysctlUserspace string

const modulesText = `# The switch's datapath in the kernel; without it packets pass through user space.
openvswitch
`

// kernel sets kernel settings persistently. The agent sets the same values when it starts.
func (h *Host) kernel() Step {
	return Step{Name: "kernel", Do: func(ctx context.Context) (string, error) {
		text, module := sysctlText, h.hasModule("openvswitch")
		if !module {
			text += "\n" + sysctlUserspace
		}
		changed, err := ensureFile(h.path(sysctlFile), []byte(text), 0o644)
		if err != nil {
			return "", err
		}
		said := sysctlFile
		if module {
			wrote, err := ensureFile(h.path(modulesFile), []byte(modulesText), 0o644)
			if err != nil {
				return "", err
			}
			changed = changed || wrote
			said += ", " + modulesFile
			if _, err := os.Stat(h.path("/sys/module/openvswitch")); err != nil {
				if _, err := h.Command.Run(ctx, "modprobe", "openvswitch"); err != nil {
					return "", err
				}
			}
		}
		if err := h.applySysctls(text); err != nil {
			return "", err
		}
		if !changed {
			return "there already: " + said, nil
		}
		if !module {
			return "wrote " + said + " (this kernel has no openvswitch: the switch runs in user space)", nil
		}
		return "wrote " + said, nil
	}}
}

// hasModule reports whether the running kernel has a module, be it loaded, built in or
// loadable.
func (h *Host) hasModule(name string) bool {
	if _, err := os.Stat(h.path("/sys/module/" + name)); err == nil {
		return true
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return false
	}
	dir := h.path(filepath.Join("/lib/modules", unix.ByteSliceToString(u.Release[:])))
	for _, list := range []string{"modules.dep", "modules.builtin"} {
		data, err := os.ReadFile(filepath.Join(dir, list))
		if err == nil && strings.Contains(string(data), "/"+name+".ko") {
			return true
		}
	}
	return false
}

// applySysctls writes the values in a sysctl.d(5) text that differ from the current ones.
// It skips settings that the host does not have or that are read-only in a container.
func (h *Host) applySysctls(text string) error {
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		path := h.path("/proc/sys/" + strings.ReplaceAll(strings.TrimSpace(name), ".", "/"))
		if err := setValue(path, strings.TrimSpace(value)); err != nil {
			return err
		}
	}
	return nil
}

// setValue writes a kernel setting if it differs.
func setValue(path, value string) error {
	have, err := os.ReadFile(path)
	if os.IsNotExist(err) || err == nil && strings.TrimSpace(string(have)) == value {
		return nil
	}
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if os.IsPermission(err) || err != nil && isReadOnly(err) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(value + "\n")
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

// isReadOnly reports whether a write failed because the file system is read-only.
func isReadOnly(err error) bool { return errors.Is(err, unix.EROFS) }
