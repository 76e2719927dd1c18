package stored_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/stored"
)

// value stands for the values of all packages: an object with known members, a list
// of objects, and a map.
type value struct {
	Version int               `json:"version"`
	Name    string            `json:"name"`
	Parts   []part            `json:"parts,omitempty"`
	Owners  map[string]string `json:"owners,omitempty"`

	Unknown stored.Unknown `json:"-"`
}

type part struct {
	ID   string `json:"id"`
	Size int    `json:"size,omitempty"`

	Unknown stored.Unknown `json:"-"`
}

// TestUnknownMembersSurvive: a value of a later release is changed by this one, and
// nothing of the later one's is lost, to the byte.
func TestUnknownMembersSurvive(t *testing.T) {
	const later = `{"new" : [ 1.50, {"<b>": "\u00e9"} ],"version":1,"name":"n","parts":[{"id":"a","health":{"ok":true}},{"size":2,"id":"b"}],"big":12345678901234567890,"none":null}`
	var v value
	if err := stored.Decode([]byte(later), 1, &v); err != nil {
		t.Fatal(err)
	}
	if v.Name != "n" || len(v.Parts) != 2 || v.Parts[0].ID != "a" || v.Parts[1].Size != 2 {
		t.Fatalf("%+v", v)
	}
	v.Name = "<m>"
	v.Parts = append(v.Parts[1:], v.Parts[0], part{ID: "c"}) // what is kept goes with its part
	got, err := stored.Encode(v)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"version":1,"name":"\u003cm\u003e","parts":[{"id":"b","size":2},{"id":"a","health":{"ok":true}},{"id":"c"}],"new":[1.50,{"<b>":"\u00e9"}],"big":12345678901234567890,"none":null}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	var read value
	if err := stored.Read([]byte(later), 1, &read); err != nil || read.Unknown != "" || read.Parts[0].Unknown != "" || read.Name != "n" {
		t.Errorf("Read = %+v, %v", read, err)
	}
}

// TestEncodeOfWhatIsKnown: what has nothing unknown is written as before this package.
func TestEncodeOfWhatIsKnown(t *testing.T) {
	v := value{Version: 1, Name: "n", Parts: []part{{ID: "a"}}, Owners: map[string]string{"x": "y"}}
	got, err := stored.Encode(v)
	want, _ := json.Marshal(v)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
	// A release that has learned a member writes its own.
	v.Unknown = `"name":"old","more":1`
	if got, err = stored.Encode(v); err != nil || string(got) != strings.TrimSuffix(string(want), "}")+`,"more":1}` {
		t.Errorf("got %s, %v", got, err)
	}
}

// TestRefused: nothing that is not whole, bounded, unambiguous and of this layout.
func TestRefused(t *testing.T) {
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for name, text := range map[string]string{
		"empty": "", "no JSON": "x", "null": "null", "a list": "[]", "cut": `{"version":1`, "trailing": `{"version":1} 1`, "two": `{"version":1}{"version":1}`,
		"no version": `{}`, "version 0": `{"version":0}`, "negative": `{"version":-1}`, "text": `{"version":"2"}`, "fraction": `{"version":1.5}`,
		"a known member of another type": `{"version":1,"name":7}`,
		"deep":                           `{"version":1,"x":` + deep(64) + `}`, "deep in a text": `{"version":1,"x":"\"` + deep(4) + `","y":` + deep(64) + `}`,
		"large": `{"version":1,"x":"` + strings.Repeat("x", 16<<20) + `"}`,
	} {
		for how, read := range map[string]func([]byte, int, any) error{"Read": stored.Read, "Decode": stored.Decode} {
			if err := read([]byte(text), 1, &value{}); err == nil || errors.Is(err, stored.ErrNewer) {
				t.Errorf("%s of %s = %v", how, name, err)
			}
		}
	}
	for name, text := range map[string]string{
		"twice": `{"version":1,"x":1,"x":2}`, "known twice": `{"version":1,"name":"a","name":"b","x":1}`, "another case": `{"version":1,"Name":"a","x":1}`,
		"much": `{"version":1,"x":"` + strings.Repeat("x", 9<<10) + `"}`, "much in a part": `{"version":1,"parts":[{"id":"a","x":"` + strings.Repeat("x", 9<<10) + `"}]}`,
		"no UTF-8": "{\"version\":1,\"x\":\"\xff\"}",
	} {
		if err := stored.Decode([]byte(text), 1, &value{}); err == nil {
			t.Errorf("Decode kept %s", name)
		}
	}
	if err := stored.Decode([]byte(`{"version":1,"x":`+deep(30)+`,"y":"`+strings.Repeat("[", 100)+`","parts":null}`), 1, &value{}); err != nil {
		t.Error(err)
	}
}

// TestNewer: a layout that this release does not know is told from a value that is
// spoilt, also where known members have other types in it.
func TestNewer(t *testing.T) {
	for _, text := range []string{`{"version":2}`, `{"version":2,"name":{"first":"n"}}`, `{"name":[],"version":1000000}`} {
		err := stored.Decode([]byte(text), 1, &value{})
		newer, ok := errors.AsType[*stored.NewerError](err)
		if !ok || !errors.Is(err, stored.ErrNewer) || newer.Known != 1 || newer.Layout < 2 || !strings.Contains(err.Error(), "install the newer release") {
			t.Errorf("%s = %v", text, err)
		}
	}
	if err := stored.Read([]byte(`{"version":1}`), 2, &value{}); err == nil || errors.Is(err, stored.ErrNewer) {
		t.Errorf("an older layout = %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		`{"version":1}`, `{"version":1,"name":"n","parts":[{"id":"a","x":1},{"id":"b"}],"owners":{"a":"b"},"more":{"a":[1]}}`,
		`{"version":2,"name":[]}`, `{"version":1,"x":1,"x":2}`, `{"version":1,"parts":null,"":null}`, `{"version":1,"parts":[null]}`, `{"version":1,"\u0000":"\ud800"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var v value
		if err := stored.Decode(data, 1, &v); err != nil {
			return
		}
		var read value
		if err := stored.Read(data, 1, &read); err != nil {
			t.Fatalf("%q is decoded and not read: %v", data, err)
		}
		out, err := stored.Encode(v)
		if err != nil {
			t.Fatalf("%q is not encoded again: %v", data, err)
		}
		var was, is map[string]any
		if err := errors.Join(json.Unmarshal(data, &was), json.Unmarshal(out, &is)); err != nil {
			t.Fatalf("%q became %q: %v", data, out, err)
		}
		for _, known := range []string{"version", "name", "parts", "owners"} {
			delete(was, known)
			delete(is, known)
		}
		if !reflect.DeepEqual(was, is) {
			t.Fatalf("%q became %q: members were lost or changed", data, out)
		}
		var again value
		if err := stored.Decode(out, 1, &again); err != nil || len(again.Parts) != len(v.Parts) || again.Unknown != v.Unknown {
			t.Fatalf("%q is not what %q was: %+v, %v", out, data, again, err)
		}
		for i := range v.Parts {
			if again.Parts[i].Unknown != v.Parts[i].Unknown {
				t.Fatalf("%q is not what %q was", out, data)
			}
		}
	})
}
