package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
)

// LoadID reads this host's ID from dir, and creates it at the first start. The ID is a
// random UUID (RFC 9562, version 4). It does not change with the host's name or
// addresses.
func LoadID(dir string) (string, error) {
	path := filepath.Join(dir, "host-id")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeID(path)
	}
	if err != nil {
		return "", fmt.Errorf("read the host's identity: %w", err)
	}
	id, err := uuid.Parse(strings.TrimSpace(string(data)))
	if err == nil && id == uuid.Nil {
		err = errors.New("it is the nil UUID")
	}
	if err != nil {
		return "", fmt.Errorf("host identity in %s is not a UUID; remove the file to get a new one: %w", path, err)
	}
	return id.String(), nil
}

// makeID writes the file atomically. A host with a partial ID would be a new host at
// every start.
func makeID(path string) (string, error) {
	id := uuid.NewString()
	if err := writeSmall(path, []byte(id+"\n")); err != nil {
		return "", fmt.Errorf("the host's identity: %w", err)
	}
	return id, nil
}
