package lab

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
)

// imageTools are the programs in the image besides busybox, whose own ping cannot forbid
// fragmentation. The image omits those that the machine lacks.
var imageTools = []string{"iperf3", "tcpdump", "ping"}

// imageTar returns the path of the image's root file system. It reuses a file that was
// made from the same files before, or creates one. The file is in bin/ of the module, so
// that it outlives the lab.
func imageTar(root string) (string, error) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return "", err
	}
	files := map[string]string{"/bin/busybox": busybox} // path in the image -> path on the machine
	for _, tool := range imageTools {
		if err := addProgram(files, tool); err != nil {
			return "", err
		}
	}
	key, err := imageKey(files)
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, "bin", "lab-image-"+key+".tar")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return "", fmt.Errorf("list busybox's applets: %w", err)
	}
	var data bytes.Buffer
	if err := writeImage(&data, files, strings.Fields(string(applets))); err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	old, err := filepath.Glob(filepath.Join(root, "bin", "lab-image-*.tar"))
	if err != nil {
		return "", err
	}
	for _, f := range old {
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, data.Bytes(), 0o644); err != nil {
		return "", err
	}
	return path, os.Rename(tmp, path)
}

// addProgram adds a program and the libraries that ldd lists. It adds nothing if the
// machine lacks the program.
func addProgram(files map[string]string, tool string) error {
	path, err := exec.LookPath(tool)
	if errors.Is(err, exec.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	files["/usr/bin/"+tool] = path
	out, err := exec.Command("ldd", path).Output()
	if err != nil {
		return fmt.Errorf("libraries of %s: %w", path, err)
	}
	for line := range strings.Lines(string(out)) {
		// "libc.so.6 => /lib/.../libc.so.6 (0x...)" or "/lib64/ld-linux.so.2 (0x...)"
		for _, field := range strings.Fields(line) {
			if strings.HasPrefix(field, "/") {
				files[field] = field
			}
		}
	}
	return nil
}

// imageKey identifies the content by sizes and modification times, which change with a
// package upgrade. It does not read the files.
func imageKey(files map[string]string) (string, error) {
	hash := sha256.New()
	fmt.Fprintln(hash, "layout 1")
	for _, name := range sortedKeys(files) {
		info, err := os.Stat(files[name])
		if err != nil {
			return "", err
		}
		fmt.Fprintln(hash, name, files[name], info.Size(), info.ModTime().UnixNano())
	}
	return fmt.Sprintf("%x", hash.Sum(nil))[:16], nil
}

func writeImage(w io.Writer, files map[string]string, applets []string) error {
	t := tar.NewWriter(w)
	dirs := map[string]bool{}
	for _, d := range []string{"dev", "etc", "proc", "root", "run", "sys", "tmp", "var/log", "var/run", "var/www", "usr/bin", "usr/sbin", "sbin", "bin"} {
		if err := addDir(t, dirs, d); err != nil {
			return err
		}
	}
	for _, name := range sortedKeys(files) {
		if err := addFile(t, dirs, name, files[name]); err != nil {
			return err
		}
	}
	for _, a := range applets {
		if a == "busybox" || files["/usr/bin/"+a] != "" {
			continue
		}
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + a, Linkname: "busybox", Mode: 0o777}); err != nil {
			return err
		}
	}
	small := map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\ntcpdump:x:100:100::/tmp:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n",
		"etc/group":  "root:x:0:\ntcpdump:x:100:\nnogroup:x:65534:\n",
	}
	for _, name := range sortedKeys(small) {
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(small[name]))}); err != nil {
			return err
		}
		if _, err := io.WriteString(t, small[name]); err != nil {
			return err
		}
	}
	return t.Close()
}

// addDir adds a directory and its parents, each once.
func addDir(t *tar.Writer, dirs map[string]bool, dir string) error {
	if dir == "." || dir == "/" || dirs[dir] {
		return nil
	}
	if err := addDir(t, dirs, filepath.Dir(dir)); err != nil {
		return err
	}
	dirs[dir] = true
	mode := int64(0o755)
	if dir == "tmp" {
		mode = 0o1777
	}
	return t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: mode})
}

func addFile(t *tar.Writer, dirs map[string]bool, name, source string) error {
	name = strings.TrimPrefix(name, "/")
	if err := addDir(t, dirs, filepath.Dir(name)); err != nil {
		return err
	}
	data, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(data))}); err != nil {
		return err
	}
	_, err = t.Write(data)
	return err
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// importImage imports the image into the host's dockerd.
func (h *Host) importImage(ctx context.Context, path string) error {
	_, err := h.Exec(ctx, "docker", "import",
		"--change", `CMD ["sh"]`, "--change", "ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin", path, Image)
	return err
}
