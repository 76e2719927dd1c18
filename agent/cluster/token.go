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

// Token is a cluster's secret. Who has it may join. It never appears in an
// argument list, an environment or a log of ours: String hides it.
type Token struct{ text string }

const (
	tokenPrefix = "sp1-" // 1 is the version of the form
	tokenBytes  = 32
	tokenCheck  = 4 // bytes of a checksum: a token that was copied badly is told at once
)

// ErrBadToken says that a text is no token at all.
var ErrBadToken = errors.New("this is no token of a cluster; see on a host of the cluster: socketplane cluster token")

// NewToken makes a token that nobody has.
func NewToken() Token {
	secret := make([]byte, tokenBytes)
	rand.Read(secret) //nolint:errcheck // it never fails, crypto/rand
	return tokenOf(secret)
}

func tokenOf(secret []byte) Token {
	sum := sha256.Sum256(secret)
	return Token{tokenPrefix + base64.RawURLEncoding.EncodeToString(append(secret, sum[:tokenCheck]...))}
}

// ParseToken reads a token; white space around it is passed over.
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

// Secret gives the token's text.
func (t Token) Secret() string { return t.text }

// IsZero says that there is no token.
func (t Token) IsZero() bool { return t.text == "" }

// String keeps the token out of what is printed by accident.
func (t Token) String() string {
	if t.IsZero() {
		return "no token"
	}
	return "a token"
}

// gossipKey derives the key of Consul's gossip (AES-256) by HKDF (RFC 5869)
// with SHA-256: who hears or finds the key has not found the token.
func (t Token) gossipKey() ([]byte, error) {
	key, err := hkdf.Key(sha256.New, []byte(t.text), nil, "socketplane gossip 1", 32)
	if err != nil {
		return nil, fmt.Errorf("derive the gossip key: %w", err)
	}
	return key, nil
}
