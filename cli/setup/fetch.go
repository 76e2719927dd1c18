package setup

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

const (
	maxArchive   = 256 << 20 // Consul's is about 60 MB
	maxProgram   = 512 << 20 // unpacked, 180 MB
	fetchTimeout = 10 * time.Minute
)

// fetch downloads a release archive into a file and verifies its checksum. The file must
// not be used if fetch fails.
func fetch(ctx context.Context, client *http.Client, r Release, into *os.File) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.URL, nil)
	if err != nil {
		return err
	}
	if req.URL.Scheme != "https" {
		return fmt.Errorf("%s is not https", r.URL)
	}
	c := *client
	c.CheckRedirect = func(next *http.Request, via []*http.Request) error {
		switch {
		case next.URL.Scheme != "https":
			return fmt.Errorf("led to %s, which is not https", next.URL.Redacted())
		case len(via) > 5:
			return errors.New("too many redirects")
		}
		return nil
	}
	resp, err := c.Do(req)
	if err != nil {
		return fmt.Errorf("download: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read from
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("download %s: %s", r.URL, resp.Status)
	}
	n, err := io.Copy(into, io.LimitReader(resp.Body, maxArchive+1))
	if err != nil {
		return fmt.Errorf("download %s: %w", r.URL, err)
	}
	if n > maxArchive {
		return fmt.Errorf("download %s: more than %d bytes", r.URL, maxArchive)
	}
	return verify(into, r.SHA256)
}

// verify compares the SHA-256 checksum of a file, in hexadecimal digits.
func verify(f *os.File, want string) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != want {
		return fmt.Errorf("checksum (sha256) is %s and must be %s: it is not what was released, and is not used", got, want)
	}
	return nil
}

// unpack extracts one program from a zip archive.
func unpack(archive *os.File, name, into string) error {
	info, err := archive.Stat()
	if err != nil {
		return err
	}
	z, err := zip.NewReader(archive, info.Size())
	if err != nil {
		return fmt.Errorf("%s: %w", archive.Name(), err)
	}
	for _, f := range z.File {
		if f.Name != name || !f.Mode().IsRegular() {
			continue
		}
		if f.UncompressedSize64 > maxProgram {
			return fmt.Errorf("%s: %s is larger than %d bytes", archive.Name(), name, maxProgram)
		}
		r, err := f.Open()
		if err != nil {
			return err
		}
		defer r.Close() //nolint:errcheck // only read from
		return writeFile(into, 0o755, io.LimitReader(r, maxProgram))
	}
	return fmt.Errorf("%s holds no %s", archive.Name(), name)
}

// sameContent reports whether two files have the same content. It returns false if b does
// not exist.
func sameContent(a, b string) (bool, error) {
	var sums [2]string
	for i, path := range []string{a, b} {
		f, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) && i == 1 {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		sum := sha256.New()
		_, err = io.Copy(sum, f)
		_ = f.Close() // only read from
		if err != nil {
			return false, err
		}
		sums[i] = hex.EncodeToString(sum.Sum(nil))
	}
	return sums[0] == sums[1], nil
}
