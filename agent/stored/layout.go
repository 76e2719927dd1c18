package stored

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"sync"
)

var unknownType = reflect.TypeFor[Unknown]()

// layout is what is to be known of a type.
type layout struct {
	keeps   bool           // a field of type Unknown is in it or below
	members map[string]int // of a struct: the field of each name
	below   []string       // of a struct: the members that keep
	unknown int            // of a struct: its field of type Unknown; -1: none
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

// look reads a type. A value is a tree of structs and slices; whatever else it has is
// taken as a whole.
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

// folds says whether encoding/json takes a key for that of a known member, whose name
// it ignores the case of.
func (l layout) folds(key string) bool {
	for name := range l.members {
		if strings.EqualFold(name, key) {
			return true
		}
	}
	return false
}

// compact takes the space out of a JSON value that was parsed.
func compact(raw json.RawMessage) json.RawMessage {
	var b bytes.Buffer
	_ = json.Compact(&b, raw) // it was parsed
	return b.Bytes()
}
