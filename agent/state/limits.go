package state

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"
)

const (
	// maxKey is a limit of this package. It suffices for every key of the layout and is
	// far below the limits of an HTTP request line and a bbolt key.
	maxKey = 512
	// maxTxnBody is Consul's default limit (txn_max_req_len) for the body of a
	// transaction, which contains the values in base64.
	maxTxnBody = 512 << 10
	// opBody exceeds what an operation adds to that body besides key and value.
	opBody = 320
)

// checkKey rejects keys that a store would refuse or, because Consul cleans paths, take
// for another key. A valid key is valid in both stores.
func checkKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("%w: the key is empty", ErrInvalid)
	case strings.HasSuffix(key, "/"):
		return fmt.Errorf("%w: key %q ends with a slash", ErrInvalid, shown(key))
	}
	return checkPath(key)
}

// checkPrefix is checkKey for a prefix, which may end with a slash. It rejects the empty
// prefix, which would cover all keys of a Consul that other programs use too.
func checkPrefix(prefix string) error {
	if prefix == "" {
		return fmt.Errorf("%w: the prefix is empty", ErrInvalid)
	}
	return checkPath(strings.TrimSuffix(prefix, "/"))
}

func checkPath(key string) error {
	if len(key) > maxKey {
		return fmt.Errorf("%w: key %q is longer than %d bytes", ErrInvalid, shown(key), maxKey)
	}
	for i := range len(key) {
		if c := key[i]; c <= ' ' || c > '~' || strings.IndexByte("\"\\<>&", c) >= 0 {
			return fmt.Errorf("%w: key %q has a character that no key may have: %q", ErrInvalid, shown(key), c)
		}
	}
	for segment := range strings.SplitSeq(key, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return fmt.Errorf("%w: key %q has a segment %q", ErrInvalid, shown(key), segment)
		}
	}
	// Consul also checks the unescaped form of a key.
	plain, err := url.PathUnescape(key)
	if err == nil && plain != key && (strings.Contains(plain, " ") || strings.Contains(plain, "..")) {
		return fmt.Errorf("%w: key %q has an escaped space or dots", ErrInvalid, shown(key))
	}
	return nil
}

// shown truncates a key for use in a message.
func shown(key string) string {
	if len(key) > 64 {
		return key[:64] + "..."
	}
	return key
}

func checkValue(key string, value []byte) error {
	if len(value) > MaxValue {
		return fmt.Errorf("%w: the value of key %q has %d bytes, more than %d", ErrInvalid, key, len(value), MaxValue)
	}
	return nil
}

// checkOps rejects transactions that Consul would refuse, with the same limits for both
// stores. It also rejects transactions that write a key twice, because a lookup could not
// show whether such a transaction was applied.
func checkOps(ops []Op) error {
	count, body := 0, 0
	written := make(map[string]bool, len(ops))
	for _, op := range ops {
		if err := checkOp(op); err != nil {
			return err
		}
		if op.Kind == OpCAS || op.Kind == OpDelete {
			if written[op.Key] {
				return fmt.Errorf("%w: the transaction writes key %q twice", ErrInvalid, op.Key)
			}
			written[op.Key] = true
		}
		count += op.weight()
		body += op.weight()*(opBody+len(op.Key)) + base64.StdEncoding.EncodedLen(len(op.Value))
	}
	if count > MaxTxnOps {
		return fmt.Errorf("%w: the transaction counts %d operations, more than %d", ErrInvalid, count, MaxTxnOps)
	}
	if body > maxTxnBody {
		return fmt.Errorf("%w: the transaction has %d bytes, more than %d", ErrInvalid, body, maxTxnBody)
	}
	return nil
}

func checkOp(op Op) error {
	switch op.Kind {
	case OpCAS:
		if err := checkValue(op.Key, op.Value); err != nil {
			return err
		}
	case OpDelete, OpCheck:
	case OpDeleteTree:
		return checkPrefix(op.Key)
	default:
		return fmt.Errorf("%w: key %q: unknown kind of operation %d", ErrInvalid, shown(op.Key), op.Kind)
	}
	return checkKey(op.Key)
}

// weight returns the number of Consul operations that op needs.
func (op Op) weight() int {
	if op.Kind == OpDelete || op.Kind == OpCAS && op.Session != "" {
		return 2
	}
	return 1
}
