package cluster

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/socketplane/socketplane/agent/api"
)

func write(t testing.TB, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func TestReadTokenFile(t *testing.T) {
	token := NewToken()
	for _, c := range []struct {
		name string
		make func(path string)
		says string // empty: it is read
	}{
		{"as cloud-init writes it", func(p string) { write(t, p, token.Secret(), 0o600) }, ""},
		{"with an end of line, for reading only", func(p string) { write(t, p, token.Secret()+"\n", 0o400) }, ""},
		{"a link to a file", func(p string) {
			write(t, p+".real", token.Secret(), 0o600)
			if err := os.Symlink(p+".real", p); err != nil {
				t.Fatal(err)
			}
		}, ""},
		{"for all to read", func(p string) { write(t, p, token.Secret(), 0o644) }, "chmod 600"},
		{"for a group to read", func(p string) { write(t, p, token.Secret(), 0o640) }, "chmod 600"},
		{"of somebody else", func(p string) {
			write(t, p, token.Secret(), 0o600)
			if err := os.Chown(p, 12345, 0); err != nil {
				t.Fatal("this test needs root: ", err)
			}
		}, "chown root"},
		{"no token", func(p string) { write(t, p, "hello", 0o600) }, "no token"},
		{"empty", func(p string) { write(t, p, "", 0o600) }, "no token"},
		{"huge", func(p string) { write(t, p, strings.Repeat("x", 1<<20), 0o600) }, "no token"},
		{"a directory", func(p string) {
			if err := os.Mkdir(p, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "is no file"},
		{"a pipe", func(p string) {
			if err := unix.Mkfifo(p, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "is no file"},
		{"nothing", func(string) {}, "no such file"},
	} {
		path := filepath.Join(t.TempDir(), "cluster.token")
		c.make(path)
		done := time.AfterFunc(10*time.Second, func() { panic(c.name + " keeps us waiting") })
		got, err := readTokenFile(path)
		done.Stop()
		switch {
		case c.says == "" && (err != nil || got != token):
			t.Errorf("%s: %v", c.name, err)
		case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), path)):
			t.Errorf("%s: %v", c.name, err)
		case err != nil && strings.Contains(err.Error(), token.Secret()):
			t.Errorf("%s: the error tells the token", c.name)
		}
	}
}

func TestWhichTokenIsWanted(t *testing.T) {
	inFile, inState := NewToken(), NewToken()
	for _, c := range []struct {
		name                       string
		file, must, state, allowed bool
		want                       Token
		fails                      bool
	}{
		{"nothing is said", false, false, false, false, Token{}, false},
		{"a file", true, false, false, false, inFile, false},
		{"the state directory", false, false, true, false, inState, false},
		{"the settings before the state", true, true, true, true, inFile, false},
		{"a file that was named is missing", false, true, true, true, Token{}, true},
		{"anybody's cluster", false, false, false, true, publicToken(), false},
		{"a token of one's own before anybody's", true, false, false, true, inFile, false},
	} {
		k, err := NewKeeper(KeeperConfig{
			Dir: t.TempDir(), TokenFile: filepath.Join(t.TempDir(), "t"), TokenFileMust: c.must, InsecureAutojoin: c.allowed,
			Logger: slog.New(slog.DiscardHandler), Ports: DefaultPorts(),
		})
		if err != nil {
			t.Fatal(err)
		}
		if c.file {
			write(t, k.TokenFile, inFile.Secret(), 0o600)
		}
		if c.state {
			if err := SaveToken(k.Dir, inState); err != nil {
				t.Fatal(err)
			}
		}
		got, _, err := k.wantedToken()
		if got != c.want || (err != nil) != c.fails {
			t.Errorf("%s: %v, %v", c.name, got == c.want, err)
		}
		if loud := k.Insecure() != ""; loud != c.allowed {
			t.Errorf("%s: a warning: %v", c.name, loud)
		}
	}
}

// The token that everybody knows is refused where the settings do not allow it.
func TestThePublicTokenHasToBeAllowed(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		k, err := NewKeeper(KeeperConfig{Dir: t.TempDir(), InsecureAutojoin: allowed, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = k.tokenFor(publicToken().Secret())
		if (err == nil) != allowed || err != nil && api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("allowed %v: %v", allowed, err)
		}
		// Nor is it looked for, when it was left in a file.
		if err := SaveToken(k.Dir, publicToken()); err != nil {
			t.Fatal(err)
		}
		if got, _, err := k.wantedToken(); (err == nil) != allowed || !allowed && !got.IsZero() {
			t.Errorf("allowed %v, in the state directory: %v", allowed, err)
		}
	}
}

func TestALeftClusterIsRemembered(t *testing.T) {
	dir := t.TempDir()
	if err := (Place{Is: api.PlaceAlone, Left: true}).Save(dir); err != nil {
		t.Fatal(err)
	}
	if p, err := LoadPlace(dir); err != nil || !p.Left {
		t.Errorf("%+v, %v", p, err)
	}
	write(t, filepath.Join(dir, placeFile), `{"version":1,"is":"joined","cluster":"7001c2b0-c66d-4a66-b5c3-d21c359c1807","left":true}`, 0o600)
	if p, err := LoadPlace(dir); err == nil {
		t.Errorf("%+v", p)
	}
}
