package ipam_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/ipam"
)

func TestEvict(t *testing.T) {
	hostOf := func(owner string) string { host, _, _ := strings.Cut(owner, "/"); return host }
	const key = "socketplane/v1/ipam/10.6.0.0-16/0"
	for name, c := range map[string]struct {
		value, want string // want "": deleted; "-": nothing to do
	}{
		"its own alone":          {`{"version":1,"host":"dead","owners":{"10.6.0.2":"dead/a","10.6.0.3":"dead/b"}}`, ""},
		"another's address":      {`{"version":1,"host":"dead","owners":{"10.6.0.2":"dead/a","10.6.0.3":"h2/b"}}`, `{"version":1,"host":"h2","owners":{"10.6.0.3":"h2/b"}}`},
		"its own, only others'":  {`{"version":1,"host":"dead","owners":{"10.6.0.9":"h3/b","10.6.0.10":"h2/b"}}`, `{"version":1,"host":"h3","owners":{"10.6.0.10":"h2/b","10.6.0.9":"h3/b"}}`},
		"in another's block":     {`{"version":1,"host":"h2","owners":{"10.6.0.2":"dead/a","10.6.0.3":"h3/b"}}`, `{"version":1,"host":"h2","owners":{"10.6.0.3":"h3/b"}}`},
		"alone in another's":     {`{"version":1,"host":"h2","owners":{"10.6.0.2":"dead/a"}}`, ""},
		"not in it":              {`{"version":1,"host":"h2","owners":{"10.6.0.2":"deader/a"}}`, "-"},
		"a name that begins so":  {`{"version":1,"host":"dead2","owners":{"10.6.0.2":"dead2/dead"}}`, "-"},
		"its own, without owner": {`{"version":1,"host":"dead","owners":{}}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			op, some, err := ipam.Evict(state.Entry{Key: key, Value: []byte(c.value), Version: 5}, "dead", hostOf)
			switch {
			case err != nil:
				t.Fatal(err)
			case some != (c.want != "-"):
				t.Fatalf("some: %v", some)
			case some && (op.Key != key || op.Version != 5):
				t.Errorf("%+v", op)
			case some && (op.Kind == state.OpDelete) != (c.want == ""), some && string(op.Value) != c.want:
				t.Errorf("kind %v, value %s", op.Kind, op.Value)
			}
		})
	}
	good := `{"version":1,"host":"dead","owners":{"10.6.0.2":"dead/a"}}`
	for _, bad := range []state.Entry{
		{Key: key, Value: []byte("x")},
		{Key: key, Value: []byte(strings.Replace(good, "10.6", "10.7", 1))},
		{Key: "socketplane/v1/ipam/10.6.0.0-16/x", Value: []byte(good)},
		{Key: "socketplane/v1/ipam/10.6.0.0-16/01", Value: []byte(good)},
		{Key: "socketplane/v1/ipam/10.6.0.0-16", Value: []byte(good)},
		{Key: "socketplane/v1/ipam/10.6.0.0-016/0", Value: []byte(good)},
		{Key: "socketplane/v1/ipam/10.6.0.1-16/0", Value: []byte(good)},
		{Key: "socketplane/v1/ipam/fd00::-64/0", Value: []byte(good)},
		{Key: "socketplane/v1/ipam/", Value: []byte(good)},
	} {
		if op, some, err := ipam.Evict(bad, "dead", hostOf); !errors.Is(err, ipam.ErrBadBlock) || some {
			t.Errorf("%q: %+v, %v, %v", bad.Key, op, some, err)
		}
	}
}
