package docker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// object is a JSON object whose order and values stay as they were read, so
// that what we do not know survives our changes.
type object struct {
	keys   []string
	values map[string]json.RawMessage
}

// parseObject reads exactly one JSON object. A key that comes twice is an
// error: readers differ in which they believe.
func parseObject(data []byte) (*object, error) {
	o := &object{values: map[string]json.RawMessage{}}
	dec := json.NewDecoder(bytes.NewReader(data))
	open, err := dec.Token()
	if err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	if open != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("not JSON: %w", err)
		}
		key, ok := token.(string)
		if !ok {
			return nil, errors.New("not a JSON object")
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, fmt.Errorf("key %q: not JSON: %w", key, err)
		}
		if _, twice := o.values[key]; twice {
			return nil, fmt.Errorf("key %q comes twice", key)
		}
		o.set(key, value)
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more follows the JSON object")
	}
	return o, nil
}

// child reads the object under key; an absent one and null are empty.
func (o *object) child(key string) (*object, error) {
	raw, ok := o.values[key]
	if !ok || bytes.Equal(bytes.TrimSpace(raw), []byte("null")) {
		return &object{values: map[string]json.RawMessage{}}, nil
	}
	c, err := parseObject(raw)
	if err != nil {
		return nil, fmt.Errorf("key %q: %w", key, err)
	}
	return c, nil
}

func (o *object) set(key string, value json.RawMessage) {
	if _, known := o.values[key]; !known {
		o.keys = append(o.keys, key)
	}
	o.values[key] = value
}

func (o *object) remove(key string) {
	if _, known := o.values[key]; !known {
		return
	}
	delete(o.values, key)
	for i, k := range o.keys {
		if k == key {
			o.keys = append(o.keys[:i], o.keys[i+1:]...)
			return
		}
	}
}

// bytes writes the object; the values are those that were read, byte by byte.
func (o *object) bytes() json.RawMessage {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, key := range o.keys {
		if i > 0 {
			b.WriteByte(',')
		}
		name, _ := json.Marshal(key) //nolint:errchkjson // a string always encodes
		b.Write(name)
		b.WriteByte(':')
		b.Write(o.values[key])
	}
	b.WriteByte('}')
	return b.Bytes()
}
