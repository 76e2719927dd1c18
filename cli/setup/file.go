package setup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// maxFile bounds small files of the host, in bytes.
const maxFile = 1 << 20

// readFile reads a small file. It returns nil without an error if the file does not exist.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read from
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return data, nil
}

// ensureFile makes sure that a file has this content and mode. It reports whether it
// changed the file.
func ensureFile(path string, data []byte, mode os.FileMode) (bool, error) {
	have, err := readFile(path)
	if err != nil {
		return false, err
	}
	if have != nil && bytes.Equal(have, data) {
		if info, err := os.Stat(path); err == nil && info.Mode().Perm() == mode {
			return false, nil
		}
	}
	return true, writeFile(path, mode, bytes.NewReader(data))
}

// writeFile replaces a file atomically, so that readers, and a program that runs from it,
// see either the old or the new content.
func writeFile(path string, mode os.FileMode, from io.Reader) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".socketplane-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // the first error says more
		}
	}()
	_, err = io.Copy(f, from)
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(f.Name(), path)
}

// ensureLink makes sure that a symbolic link exists, and reports whether it changed it. It
// fails if path is not a link, because then the file belongs to someone else.
func ensureLink(path, target string) (bool, error) {
	have, err := os.Readlink(path)
	switch {
	case err == nil && have == target:
		return false, nil
	case err == nil:
		if err := os.Remove(path); err != nil {
			return false, err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("%s exists and is not a link; move it away", path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, err
	}
	return true, os.Symlink(target, path)
}

// remove removes files, and directories if they are empty. It returns the names that
// existed.
func (h *Host) remove(names ...string) (removed []string, err error) {
	for _, name := range names {
		err := os.Remove(h.path(name))
		switch {
		case err == nil:
			removed = append(removed, name)
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, errNotEmpty):
		default:
			return removed, err
		}
	}
	return removed, nil
}
