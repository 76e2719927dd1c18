package cluster

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/api"
)

func TestToken(t *testing.T) {
	a, b := NewToken(), NewToken()
	if a == b {
		t.Error("twice the same")
	}
	if got, err := ParseToken(" " + a.Secret() + "\n"); err != nil || got != a {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{
		"", "sp1-", "x", a.Secret()[1:], a.Secret() + "A", a.Secret()[:len(a.Secret())-1], strings.ToUpper(a.Secret()),
		strings.Replace(a.Secret(), "sp1-", "sp2-", 1), a.Secret() + "\n" + a.Secret(), strings.Repeat("a", 1<<20), "sp1-\x00",
	} {
		if got, err := ParseToken(bad); err == nil || !got.IsZero() {
			t.Errorf("%.40q is a token", bad)
		} else if bad != "" && strings.Contains(err.Error(), bad) {
			t.Errorf("the error says it: %v", err)
		}
	}
	// One wrong letter is told, wherever it is.
	for i := len(tokenPrefix); i < len(a.Secret()); i++ {
		wrong := []byte(a.Secret())
		wrong[i] = map[bool]byte{true: 'B', false: 'A'}[wrong[i] == 'A']
		if _, err := ParseToken(string(wrong)); err == nil {
			t.Fatalf("letter %d may be anything", i)
		}
	}
}

// Nothing that prints a token by accident shows it, and the key is not the token.
func TestTokenHides(t *testing.T) {
	token := NewToken()
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "token", token)
	for _, shown := range []string{fmt.Sprint(token), fmt.Sprintf("%v %s", token, token), log.String()} {
		if strings.Contains(shown, token.Secret()[4:20]) {
			t.Errorf("shown: %s", shown)
		}
	}
	one, err := token.gossipKey()
	again, _ := token.gossipKey()
	other, _ := NewToken().gossipKey()
	if err != nil || len(one) != 32 || !bytes.Equal(one, again) || bytes.Equal(one, other) || strings.Contains(token.Secret(), string(one)) {
		t.Errorf("%d bytes, %v", len(one), err)
	}
}

func TestPlace(t *testing.T) {
	dir := t.TempDir()
	if p, err := LoadPlace(dir); err != nil || p.Is != api.PlaceAlone {
		t.Fatalf("%+v, %v", p, err)
	}
	want := Place{Is: api.PlaceJoined, Cluster: "11111111-1111-4111-8111-111111111111", Settled: true, Iface: "eth1"}
	if err := want.Save(dir); err != nil {
		t.Fatal(err)
	}
	if p, err := LoadPlace(dir); err != nil || fmt.Sprint(p) != fmt.Sprint(want) {
		t.Errorf("%+v, %v", p, err)
	}
	path := filepath.Join(dir, placeFile)
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	good, _ := os.ReadFile(path)
	for name, bad := range map[string]string{
		"empty": "", "cut": string(good[:20]), "null": "null", "two": string(good) + "{}", "large": strings.Repeat(" ", maxPlaceFile+1),
		"layout": strings.Replace(string(good), "1", "2", 1),
		"place":  strings.Replace(string(good), "joined", "lost", 1), "cluster": strings.Replace(string(good), "4111", "zzzz", 1),
		"alone in one": strings.Replace(string(good), "joined", "alone", 1), "iface": strings.Replace(string(good), "eth1", "../x", 1),
		"peer": strings.Replace(string(good), "{", `{"peers":["x"],`, 1), "IPv6 peer": strings.Replace(string(good), "{", `{"peers":["::1"],`, 1),
	} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if p, err := LoadPlace(dir); err == nil {
			t.Errorf("%s: %+v", name, p)
		}
	}
	token := NewToken()
	if err := SaveToken(dir, token); err != nil {
		t.Fatal(err)
	}
	if got, err := LoadToken(dir); err != nil || got != token {
		t.Errorf("%v, %v", got, err)
	}
	if fi, err := os.Stat(filepath.Join(dir, tokenFile)); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
	for range 2 {
		if err := SaveToken(dir, Token{}); err != nil {
			t.Error(err)
		}
	}
	if got, err := LoadToken(dir); err != nil || !got.IsZero() {
		t.Errorf("%v, %v", got, err)
	}
}
