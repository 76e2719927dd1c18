// Package stored owns the form of stored values: JSON objects with the number of
// their layout, which older and newer releases read and write side by side. A reader
// takes the members that it knows. A writer puts back the members that it does not
// know, so a value loses nothing on its way through another release. It never says
// what a member means; who uses a value validates what it knows of it.
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
	// maxValue bounds a value, in bytes. Consul takes 512 KiB; an embedded store is
	// this host's own.
	maxValue = 16 << 20
	// maxDepth bounds how deep objects and arrays nest. Ours nest to 5.
	maxDepth = 32
	// maxUnknown bounds what is kept of one object, in bytes: whoever can write the
	// store makes others carry it from write to write.
	maxUnknown = 8 << 10
)

// Unknown are the members of a JSON object that this release does not know, as they
// are written in it: `"a":1,"b":[]`. A struct that is to keep them has a field of
// this type with the tag `json:"-"`. Encode writes them behind the known ones.
type Unknown string

// ErrNewer is what a NewerError is.
var ErrNewer = errors.New("written by a newer release that this one cannot read")

// NewerError says that a value has a newer layout than this release knows. Such a
// value is left alone. It is an ErrNewer.
type NewerError struct {
	Layout, Known int
}

func (e *NewerError) Error() string {
	return fmt.Sprintf("a newer release wrote it, in layout %d; this release knows layout %d: install the newer release on this host", e.Layout, e.Known)
}

// Unwrap gives ErrNewer.
func (e *NewerError) Unwrap() error { return ErrNewer }

// Unmarshal reads one JSON value, and nothing behind it, into what into points to.
// Members that it does not know are skipped.
func Unmarshal(data []byte, into any) error {
	if err := bounded(data); err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// Read reads an object of this layout into the struct that into points to, which has
// an int named Version for the layout. It forgets what it does not know: the value
// must not be written back. The error is a NewerError when the layout is newer.
func Read(value []byte, layout int, into any) error {
	err := Unmarshal(value, into)
	found := reflect.ValueOf(into).Elem().FieldByName("Version").Int()
	if err != nil { // a newer layout may have other things where this one has a number
		var probe struct {
			Version int64 `json:"version"`
		}
		_ = json.Unmarshal(value, &probe) // what is wrong with it is in err
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

// Decode is Read that keeps what it does not know, in the fields of type Unknown of
// the struct and of the structs in its lists.
func Decode(value []byte, layout int, into any) error {
	if err := bounded(value); err != nil {
		return err
	}
	v := reflect.ValueOf(into).Elem()
	// Nearly all values have known members only: then there is nothing to look for.
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

// Encode writes a value with the members that Decode kept.
func Encode(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return restore(reflect.ValueOf(v), data)
}

// bounded says whether a value is small and flat enough to be read.
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

// keep fills the fields of type Unknown of v, which was read from raw.
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

// restore puts the unknown members of v back into data, which is v encoded.
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

// kept says whether v has unknown members, at whatever depth.
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
