package jsonobject

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestUnknownSurvives(t *testing.T) {
	const text = `{"z":1.10,"a":{"<b>":[1,2 , 3],"b":null},"é":"\u00e9","big":12345678901234567890}`
	o, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(o.Bytes()); got != text {
		t.Errorf("got %s", got)
	}
	c, err := o.Child("a")
	if err != nil {
		t.Fatal(err)
	}
	c.Set("n", String("<x>"))
	if err := c.Rename("b", "c"); err != nil {
		t.Fatal(err)
	}
	o.Set("a", c.Bytes())
	o.Remove("é")
	o.Remove("nothing")
	if got, want := string(o.Bytes()), `{"z":1.10,"a":{"<b>":[1,2 , 3],"c":null,"n":"<x>"},"big":12345678901234567890}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if err := c.Rename("c", "n"); err == nil {
		t.Error("renamed over another key")
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{
		"", "x", "[]", "null", "1", `"a"`, "{", `{"a"`, `{"a":`, `{"a":1`, `{"a":1}{}`, `{"a":1} x`, `{"a":1,"a":2}`, `{"a":1,}`, `{1:2}`,
		`{"a":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`,
	} {
		if _, err := Parse([]byte(text)); err == nil {
			t.Errorf("%.40q was read", text)
		}
	}
}

func TestFold(t *testing.T) {
	o, err := Parse([]byte(`{"hostconfig":{},"Env":[],"ENV":[]}`))
	if err != nil {
		t.Fatal(err)
	}
	if key, err := o.Fold("HostConfig"); key != "hostconfig" || err != nil {
		t.Errorf("got %q, %v", key, err)
	}
	if key, err := o.Fold("Labels"); key != "Labels" || err != nil {
		t.Errorf("got %q, %v", key, err)
	}
	if _, err := o.Fold("env"); err == nil {
		t.Error("two of them are no error")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":{"b":[1,"\ud800"]},"c":null}`, `{"a":1,"a":2}`, "{", `{"a":1} `} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := Parse(data)
		if err != nil {
			return
		}
		var want, got any
		if err := json.Unmarshal(data, &want); err != nil {
			t.Fatalf("%q was read: %v", data, err)
		}
		if err := json.Unmarshal(o.Bytes(), &got); err != nil || !reflect.DeepEqual(want, got) {
			t.Fatalf("%q became %q: %v", data, o.Bytes(), err)
		}
		again, err := Parse(o.Bytes())
		if err != nil || !bytes.Equal(again.Bytes(), o.Bytes()) {
			t.Fatalf("%q is not read again: %v", o.Bytes(), err)
		}
	})
}
