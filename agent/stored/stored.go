// Package stored defines the format of stored values: JSON objects with a layout number,
// which older and newer releases read and write side by side. A reader uses the members
// that it knows. A writer preserves the members that it does not know, so a value loses
// nothing when another release rewrites it. The package does not interpret members; the
// code that uses a value validates them.
package stored

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"unicode/utf8"

	"github.com/socketplane/socketplane/agent/jsonobject"
)

const (
	// maxValue limits a value, in bytes. Consul accepts 512 KiB; only this host writes
	// an embedded store.
	maxValue = 16 << 20
	// maxDepth limits the nesting of objects and arrays. The values of this program nest
	// to 5.
	maxDepth = 32
	// maxUnknown limits the unknown members of one object, in bytes. Otherwise anyone
	// who can write to the store could make every later write carry large data.
	maxUnknown = 8 << 10
)

// Unknown holds the members of a JSON object that this release does not know, in JSON
// syntax: `"a":1,"b":[]`. A struct that preserves them has a field of this type with the
// tag `json:"-"`. Encode writes them after the known members.
type Unknown string

// ErrNewer is the sentinel error that NewerError wraps.
var ErrNewer = errors.New("written by a newer release that this one cannot read")

// NewerError reports that a value has a newer layout than this release knows. Such a
// value must be left unchanged. It wraps ErrNewer.
type NewerError struct {
	Layout, Known int
}

func (e *NewerError) Error() string {
	return fmt.Sprintf("a newer release wrote it, in layout %d; this release knows layout %d: install the newer release on this host", e.Layout, e.Known)
}

// Unwrap returns ErrNewer.
func (e *NewerError) Unwrap() error { return ErrNewer }

// Unmarshal decodes exactly one JSON value into the value that into points to. It ignores
// unknown members.
func Unmarshal(data []byte, into any) error {
	if err := bounded(data); err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// Read decodes an object with the given layout into the struct that into points to. The
// struct must have an integer field Version for the layout. Read discards unknown
// members, so the caller must not write the value back. The error is a NewerError if the
// layout is newer.
func Read(value []byte, layout int, into any) error {
	err := Unmarshal(value, into)
	found := reflect.ValueOf(into).Elem().FieldByName("Version").Int()
	if err != nil { // a newer layout may have another type where this one has a number
		var probe struct {
			Version int64 `json:"version"`
		}
		_ = json.Unmarshal(value, &probe) // err describes the failure
		found = max(found, probe.Version)
	}
	switch {
	case found > int64(layout) && bounded(value) == nil && json.Valid(value):
		return &NewerError{Layout: int(found), Known: layout}
	case err != nil:
		return err
	case found != int64(layout):
		return fmt.Errorf("layout version %d is not %d", found, layout)
	}
	return nil
}

// Decode is Read that preserves unknown members, in the fields of type Unknown of the
// struct and of the structs in its slices.
func Decode(value []byte, layout int, into any) error {
	if err := bounded(value); err != nil {
		return err
	}
	v := reflect.ValueOf(into).Elem()
	// Nearly all values have only known members, so there is nothing to preserve.
	dec := json.NewDecoder(bytes.NewReader(value))
	dec.DisallowUnknownFields()
	if dec.Decode(into) == nil && v.FieldByName("Version").Int() == int64(layout) {
		if _, err := dec.Token(); errors.Is(err, io.EOF) {
			return nil
		}
	}
	v.SetZero()
	if err := Read(value, layout, into); err != nil {
		return err
	}
	return keep(v, value)
}

// Encode encodes a value together with the unknown members that Decode preserved.
func Encode(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return restore(reflect.ValueOf(v), data)
}

// bounded returns an error if a value is too large or nests too deeply.
func bounded(data []byte) error {
	if len(data) > maxValue {
		return fmt.Errorf("%d bytes are more than %d", len(data), maxValue)
	}
	depth, quoted := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{', c == '[':
			if depth++; depth > maxDepth {
				return fmt.Errorf("it nests deeper than %d", maxDepth)
			}
		case c == '}', c == ']':
			depth--
		}
	}
	return nil
}

// keep sets the fields of type Unknown of v, which was decoded from raw.
func keep(v reflect.Value, raw []byte) error {
	l := layoutOf(v.Type())
	if !l.keeps || jsonobject.IsNull(raw) {
		return nil
	}
	switch v.Kind() {
	case reflect.Slice:
		var list []json.RawMessage
		if err := json.Unmarshal(raw, &list); err != nil {
			return err
		}
		for i, one := range list {
			if err := keep(v.Index(i), one); err != nil {
				return err
			}
		}
		return nil
	case reflect.Struct:
		return keepMembers(v, raw, l)
	}
	return nil
}

func keepMembers(v reflect.Value, raw []byte, l layout) error {
	o, err := jsonobject.Parse(raw)
	if err != nil {
		return err
	}
	rest := jsonobject.New()
	for _, key := range o.Keys() {
		index, known := l.members[key]
		switch {
		case known:
			if err := keep(v.Field(index), o.Get(key)); err != nil {
				return fmt.Errorf("member %q: %w", key, err)
			}
		case l.folds(key):
			return fmt.Errorf("member %.80q is one of a known name in another case", key)
		default:
			rest.Set(key, compact(o.Get(key)))
		}
	}
	if l.unknown < 0 || rest.Len() == 0 {
		return nil
	}
	text := rest.Bytes()
	text = text[1 : len(text)-1]
	if len(text) > maxUnknown {
		return fmt.Errorf("%d bytes of members that this release does not know are more than %d", len(text), maxUnknown)
	}
	if !utf8.Valid(text) {
		return errors.New("it is not UTF-8")
	}
	v.Field(l.unknown).SetString(string(text))
	return nil
}

// restore adds the unknown members of v to data, the encoded v.
func restore(v reflect.Value, data []byte) ([]byte, error) {
	if !kept(v) {
		return data, nil
	}
	if v.Kind() == reflect.Slice {
		return restoreList(v, data)
	}
	l := layoutOf(v.Type())
	o, err := jsonobject.Parse(data)
	if err != nil {
		return nil, err
	}
	for _, key := range l.below {
		if raw := o.Get(key); raw != nil {
			if raw, err = restore(v.Field(l.members[key]), raw); err != nil {
				return nil, err
			}
			o.Set(key, raw)
		}
	}
	if l.unknown >= 0 && v.Field(l.unknown).Len() > 0 {
		more, err := jsonobject.Parse([]byte("{" + v.Field(l.unknown).String() + "}"))
		if err != nil {
			return nil, err
		}
		for _, key := range more.Keys() {
			if _, known := l.members[key]; !known {
				o.Set(key, more.Get(key))
			}
		}
	}
	return o.Bytes(), nil
}

func restoreList(v reflect.Value, data []byte) ([]byte, error) {
	var list []json.RawMessage
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, err
	}
	out := []byte{'['}
	for i, one := range list {
		one, err := restore(v.Index(i), one)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, one...)
	}
	return append(out, ']'), nil
}

// kept reports whether v has unknown members at any depth.
func kept(v reflect.Value) bool {
	l := layoutOf(v.Type())
	if !l.keeps {
		return false
	}
	switch v.Kind() {
	case reflect.Slice:
		for i := range v.Len() {
			if kept(v.Index(i)) {
				return true
			}
		}
	case reflect.Struct:
		if l.unknown >= 0 && v.Field(l.unknown).Len() > 0 {
			return true
		}
		for _, key := range l.below {
			if kept(v.Field(l.members[key])) {
				return true
			}
		}
	}
	return false
}
