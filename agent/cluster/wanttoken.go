package cluster

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/socketplane/socketplane/agent/api"
)

// publicToken returns the token of clusters that any host may join. It is no secret,
// because it is in this source. Only hosts with cluster.insecure_autojoin use it.
func publicToken() Token {
	known := sha256.Sum256([]byte("socketplane insecure autojoin 1"))
	return tokenOf(known[:])
}

// maxTokenFile limits the size of a token file, in bytes.
const maxTokenFile = 1 << 10

// errPublic rejects the public token if the settings do not allow it.
var errPublic = api.Errorf(api.CodeInvalid, "this token is the one that everybody knows; make one with: socketplane cluster token --new, or set cluster.insecure_autojoin")

// wantedToken returns the token with which a standalone host searches for its cluster:
// the token in the file from the settings, else the one in the state directory, else the
// public token if the settings allow it. from names the source for messages. Without that
// setting it rejects the public token from any source.
func (k *Keeper) wantedToken() (t Token, from string, err error) {
	t, from, err = k.tokenThatIsThere()
	if err == nil && t == publicToken() && !k.InsecureAutojoin {
		return Token{}, from, errPublic
	}
	return t, from, err
}

func (k *Keeper) tokenThatIsThere() (t Token, from string, err error) {
	t, err = readTokenFile(k.TokenFile)
	switch {
	case err == nil:
		return t, k.TokenFile, nil
	case !errors.Is(err, fs.ErrNotExist):
		return Token{}, k.TokenFile, err
	case k.TokenFileMust:
		return Token{}, k.TokenFile, fmt.Errorf("cluster.token_file says that the cluster's token is in %s, and there is no such file; write it, or remove the setting", k.TokenFile)
	}
	if t, err = LoadToken(k.Dir); err != nil || !t.IsZero() {
		return t, "the state directory", err
	}
	if k.InsecureAutojoin {
		return publicToken(), "the settings (cluster.insecure_autojoin)", nil
	}
	return Token{}, "", nil
}

// readTokenFile reads a token that an administrator wrote. The file must belong to root,
// and no one else may read it. The error wraps fs.ErrNotExist if the file is absent.
func readTokenFile(path string) (Token, error) {
	if path == "" {
		return Token{}, fs.ErrNotExist
	}
	// O_NONBLOCK: a named pipe cannot block the open.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return Token{}, fmt.Errorf("file with the cluster's token: %w", err)
	}
	defer f.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &stat); err != nil {
		return Token{}, fmt.Errorf("file with the cluster's token: %s: %w", path, err)
	}
	switch {
	case stat.Mode&unix.S_IFMT != unix.S_IFREG:
		return Token{}, api.Errorf(api.CodeInvalid, "%s is to hold the cluster's token and is no file", path)
	case stat.Mode&0o077 != 0 || int(stat.Uid) != os.Geteuid():
		return Token{}, api.Errorf(api.CodeInvalid, "%s holds a secret that others may read or change (mode %o, user %d); mend it: chown root %s && chmod 600 %s",
			path, stat.Mode&0o777, stat.Uid, path, path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxTokenFile+1))
	if err != nil {
		return Token{}, fmt.Errorf("read %s: %w", path, err)
	}
	t, err := ParseToken(string(data))
	if err != nil {
		return Token{}, api.Errorf(api.CodeInvalid, "%s holds no token of a cluster; write there what this says on a host of the cluster: socketplane cluster token", path)
	}
	return t, nil
}

// Insecure returns a one-sentence warning about this host's place, or "" if there is
// none.
func (k *Keeper) Insecure() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.public:
		return "INSECURE: whoever reaches this host's network can join its cluster, read and change it: its token is the public one of cluster.insecure_autojoin; for demonstrations only"
	case k.InsecureAutojoin && !k.place.InCluster() && !k.Configured:
		return "INSECURE: cluster.insecure_autojoin is set: without a token of its own this host joins whatever cluster of that kind answers on its network; for demonstrations only"
	}
	return ""
}
