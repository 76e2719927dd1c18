package docker

import (
	"bytes"
	"compress/gzip"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/socketplane/socketplane/agent/oci"
	"github.com/socketplane/socketplane/agent/wholefile"
)

// embedded contains the socketplane-runc.gz that scripts/build.sh last built in this tree.
// It contains no program if the script has not run in this tree.
//
//go:embed all:embedded
var embedded embed.FS

// maxRuntime bounds the size of the runtime program, in bytes.
const maxRuntime = 64 << 20

// InstallRuntime installs the runtime in dir and returns its path. The runtime is a small
// program of its own, because Docker runs it five times per start and end of a container,
// and this program would take 2 ms more each time. If no such program is embedded, or dir
// is mounted noexec, InstallRuntime creates a link to this program, which does the same.
func InstallRuntime(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("runtime's directory: %w", err)
	}
	path := filepath.Join(dir, oci.RuntimeProgram)
	program, err := runtimeProgram()
	if err != nil || program == nil || noexec(dir) {
		return path, linkRuntime(path)
	}
	if err := installProgram(path, program); err != nil {
		return "", fmt.Errorf("runtime's program: %w", err)
	}
	return path, nil
}

// noexec reports whether dir is on a mount that forbids running programs.
func noexec(dir string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(dir, &fs) == nil && fs.Flags&unix.ST_NOEXEC != 0
}

// runtimeProgram returns the embedded program, or nil if there is none.
func runtimeProgram() ([]byte, error) {
	f, err := embedded.Open("embedded/" + oci.RuntimeProgram + ".gz")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read from
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(z, maxRuntime))
}

// installProgram writes the program unless the file has this content already, because
// containers may be starting with it.
func installProgram(path string, program []byte) error {
	if info, err := os.Lstat(path); err == nil && info.Mode() == 0o755 && info.Size() == int64(len(program)) {
		if have, err := wholefile.Read(path, maxRuntime); err == nil && bytes.Equal(have, program) {
			return nil
		}
	}
	return wholefile.Replace(path, program, 0o755, true)
}

func linkRuntime(path string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("path of this program: %w", err)
	}
	if target, err := os.Readlink(path); err == nil && target == self {
		return nil
	}
	fresh := filepath.Join(filepath.Dir(path), fmt.Sprintf(".%s.%d", oci.RuntimeProgram, os.Getpid()))
	if err := os.Symlink(self, fresh); err != nil {
		return fmt.Errorf("link the runtime: %w", err)
	}
	if err := os.Rename(fresh, path); err != nil {
		_ = os.Remove(fresh) // the first error says more
		return fmt.Errorf("link the runtime: %w", err)
	}
	return nil
}
