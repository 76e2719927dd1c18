package cluster

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// Token is a cluster's secret. Any host that has it may join. The agent never puts it in
// an argument list, an environment or a log; String hides it.
type Token struct{ text string }

const (
	tokenPrefix = "sp1-" // the 1 is the version of the format
	tokenBytes  = 32
	tokenCheck  = 4 // bytes of a checksum, which detects a token that was copied incorrectly
)

// ErrBadToken reports that a text is not a token.
var ErrBadToken = errors.New("this is no token of a cluster; see on a host of the cluster: socketplane cluster token")

// NewToken returns a new random token.
func NewToken() Token {
	secret := make([]byte, tokenBytes)
	rand.Read(secret) //nolint:errcheck // it never fails, crypto/rand
	return tokenOf(secret)
}

func tokenOf(secret []byte) Token {
	sum := sha256.Sum256(secret)
	return Token{tokenPrefix + base64.RawURLEncoding.EncodeToString(append(secret, sum[:tokenCheck]...))}
}

// ParseToken parses a token. It ignores surrounding white space.
func ParseToken(s string) (Token, error) {
	if len(s) > 1<<10 {
		return Token{}, ErrBadToken
	}
	s = strings.TrimSpace(s)
	body, ok := strings.CutPrefix(s, tokenPrefix)
	raw, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if !ok || err != nil || len(raw) != tokenBytes+tokenCheck || tokenOf(raw[:tokenBytes:tokenBytes]).text != s {
		return Token{}, ErrBadToken
	}
	return Token{s}, nil
}

// Secret returns the token's text.
func (t Token) Secret() string { return t.text }

// IsZero reports whether there is no token.
func (t Token) IsZero() bool { return t.text == "" }

// String does not contain the token, so that printing it does not reveal the token.
func (t Token) String() string {
	if t.IsZero() {
		return "no token"
	}
	return "a token"
}

// gossipKey derives the key of Consul's gossip (AES-256) with HKDF (RFC 5869) and
// SHA-256. The key does not reveal the token.
func (t Token) gossipKey() ([]byte, error) {
	key, err := hkdf.Key(sha256.New, []byte(t.text), nil, "socketplane gossip 1", 32)
	if err != nil {
		return nil, fmt.Errorf("derive the gossip key: %w", err)
	}
	return key, nil
}
