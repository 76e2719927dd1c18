package ovs

import "github.com/ovn-org/libovsdb/ovsdb"

// This file converts between Go values and those of RFC 7047 (OVSDB), section 5.1.
// Reading rows of a select is lenient: a column with an unexpected type reads as empty.

// namedUUID refers to a row that the same transaction inserts.
func namedUUID(name string) ovsdb.UUID { return ovsdb.UUID{GoUUID: name} }

func whereName(name string) []ovsdb.Condition {
	return []ovsdb.Condition{ovsdb.NewCondition("name", ovsdb.ConditionEqual, name)}
}

func ovsMap(m map[string]string) ovsdb.OvsMap {
	out := make(map[any]any, len(m))
	for k, v := range m {
		out[k] = v
	}
	return ovsdb.OvsMap{GoMap: out}
}

// optional returns a set of one element, or the empty set for the zero value.
func optional[T comparable](v T) ovsdb.OvsSet {
	var zero T
	if v == zero {
		return ovsdb.OvsSet{GoSet: []any{}}
	}
	return ovsdb.OvsSet{GoSet: []any{v}}
}

// single returns the element of a set of one, nil for an empty set, and any other value
// as it is.
func single(v any) any {
	if set, ok := v.(ovsdb.OvsSet); ok {
		if len(set.GoSet) == 0 {
			return nil
		}
		return set.GoSet[0]
	}
	return v
}

func rowString(r ovsdb.Row, column string) string {
	s, _ := single(r[column]).(string)
	return s
}

// rowInt returns an integer column. JSON numbers arrive as float64.
func rowInt(r ovsdb.Row, column string) int {
	switch n := single(r[column]).(type) {
	case float64:
		return int(n)
	case int:
		return n
	}
	return 0
}

func rowMap(r ovsdb.Row, column string) map[string]string {
	m, _ := r[column].(ovsdb.OvsMap)
	out := make(map[string]string, len(m.GoMap))
	for k, v := range m.GoMap {
		ks, _ := k.(string)
		vs, _ := v.(string)
		out[ks] = vs
	}
	return out
}

func rowUUIDs(r ovsdb.Row, column string) []string {
	var out []string
	add := func(v any) {
		if u, ok := v.(ovsdb.UUID); ok {
			out = append(out, u.GoUUID)
		}
	}
	if set, ok := r[column].(ovsdb.OvsSet); ok {
		for _, v := range set.GoSet {
			add(v)
		}
	} else {
		add(r[column])
	}
	return out
}
