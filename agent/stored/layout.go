package stored

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"sync"
)

var unknownType = reflect.TypeFor[Unknown]()

// layout describes a type.
type layout struct {
	keeps   bool           // the type or a type below it has a field of type Unknown
	members map[string]int // of a struct: name to field index
	below   []string       // of a struct: the members whose types keep unknown members
	unknown int            // of a struct: index of its field of type Unknown; -1: none
}

var layouts sync.Map // reflect.Type -> layout

func layoutOf(t reflect.Type) layout {
	if l, ok := layouts.Load(t); ok {
		return l.(layout)
	}
	l := look(t)
	layouts.Store(t, l)
	return l
}

// look determines the layout of a type. It descends into structs and slices only; every
// other type is opaque.
func look(t reflect.Type) layout {
	l := layout{unknown: -1}
	switch t.Kind() {
	case reflect.Slice:
		l.keeps = layoutOf(t.Elem()).keeps
	case reflect.Struct:
		l.members = map[string]int{}
		for i := range t.NumField() {
			f := t.Field(i)
			if f.Type == unknownType {
				l.unknown, l.keeps = i, true
			}
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if !f.IsExported() || name == "-" {
				continue
			}
			if name == "" {
				name = f.Name
			}
			l.members[name] = i
			if layoutOf(f.Type).keeps {
				l.keeps, l.below = true, append(l.below, name)
			}
		}
	}
	return l
}

// folds reports whether encoding/json would accept key for a known member, because it
// ignores the case of names.
func (l layout) folds(key string) bool {
	for name := range l.members {
		if strings.EqualFold(name, key) {
			return true
		}
	}
	return false
}

// compact removes the white space from a valid JSON value.
func compact(raw json.RawMessage) json.RawMessage {
	var b bytes.Buffer
	_ = json.Compact(&b, raw) // raw is valid JSON
	return b.Bytes()
}
