// Package jsonobject edits JSON objects without interpreting their values. The order of
// the keys and the bytes of the values stay as they were read, so that unknown fields
// survive.
package jsonobject

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Object is one JSON object. The zero Object is not usable; see New and Parse.
type Object struct {
	keys   []string
	values map[string]json.RawMessage
}

// New returns an empty object.
func New() *Object { return &Object{values: map[string]json.RawMessage{}} }

// Parse parses exactly one JSON object. It rejects a duplicate key, because readers
// differ in which value they use.
func Parse(data []byte) (*Object, error) {
	o := New()
	dec := json.NewDecoder(bytes.NewReader(data))
	open, err := dec.Token()
	if err != nil {
		return nil, notJSON(err)
	}
	if open != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, notJSON(err)
		}
		key, ok := token.(string)
		if !ok {
			return nil, errors.New("not a JSON object")
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, fmt.Errorf("key %.80q: %w", key, notJSON(err))
		}
		if _, twice := o.values[key]; twice {
			return nil, fmt.Errorf("key %.80q comes twice", key)
		}
		o.Set(key, value)
	}
	if _, err := dec.Token(); err != nil { // closing brace
		return nil, notJSON(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more follows the JSON object")
	}
	return o, nil
}

// notJSON wraps err, and reports input that ends too early as io.ErrUnexpectedEOF.
func notJSON(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("not JSON: %w", err)
}

// Get returns the value of a key, or nil if the key is absent.
func (o *Object) Get(key string) json.RawMessage { return o.values[key] }

// Len returns the number of keys.
func (o *Object) Len() int { return len(o.keys) }

// Keys returns the keys in order.
func (o *Object) Keys() []string { return slices.Clone(o.keys) }

// Fold returns the key that equals name if case is ignored, as encoding/json matches it.
// It returns name itself if there is none. It fails if there are two such keys, because
// readers differ in which value they use.
func (o *Object) Fold(name string) (string, error) {
	found := ""
	for _, key := range o.keys {
		if !strings.EqualFold(key, name) {
			continue
		}
		if found != "" {
			return "", fmt.Errorf("key %q comes twice, as %q too", found, key)
		}
		found = key
	}
	if found == "" {
		return name, nil
	}
	return found, nil
}

// Child parses the object under key. It returns an empty object if the value is absent or
// null.
func (o *Object) Child(key string) (*Object, error) {
	raw, ok := o.values[key]
	if !ok || IsNull(raw) {
		return New(), nil
	}
	c, err := Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("key %q: %w", key, err)
	}
	return c, nil
}

// IsNull reports whether a value is absent or null.
func IsNull(raw json.RawMessage) bool {
	raw = bytes.TrimSpace(raw)
	return len(raw) == 0 || bytes.Equal(raw, []byte("null"))
}

// Set sets the value of key. It appends a new key at the end.
func (o *Object) Set(key string, value json.RawMessage) {
	if _, known := o.values[key]; !known {
		o.keys = append(o.keys, key)
	}
	o.values[key] = value
}

// Remove removes key. It does nothing if the key is absent.
func (o *Object) Remove(key string) {
	if _, known := o.values[key]; !known {
		return
	}
	delete(o.values, key)
	o.keys = slices.DeleteFunc(o.keys, func(k string) bool { return k == key })
}

// Rename renames key without changing its position. It fails if the new name exists.
func (o *Object) Rename(key, name string) error {
	if key == name {
		return nil
	}
	if _, taken := o.values[name]; taken {
		return fmt.Errorf("keys %q and %q are both there", key, name)
	}
	i := slices.Index(o.keys, key)
	if i < 0 {
		return nil
	}
	o.keys[i], o.values[name] = name, o.values[key]
	delete(o.values, key)
	return nil
}

// Bytes returns the encoded object. The values are unchanged since they were read or set.
func (o *Object) Bytes() json.RawMessage {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, key := range o.keys {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(String(key))
		b.WriteByte(':')
		b.Write(o.values[key])
	}
	b.WriteByte('}')
	return b.Bytes()
}

// String encodes a string as JSON without HTML escapes.
func String(s string) json.RawMessage {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string always encodes
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
