package powerstrip

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// hook posts a message to the adapter.
func hook(a http.Handler, message string) (int, string) {
	w := httptest.NewRecorder()
	a.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/adapter", strings.NewReader(message)))
	return w.Code, w.Body.String()
}

func TestHooks(t *testing.T) {
	quoted := func(s string) string { b, _ := json.Marshal(s); return string(b) }
	body := `{"Env":["SP_NETWORK=web"],"A":"<é>"}`
	changed := `{"Env":["SP_NETWORK=web"],"A":"<é>","HostConfig":{"NetworkMode":"web"}}`
	plain := strings.NewReplacer(`\u003c`, "<", `\u003e`, ">").Replace
	for _, tt := range []struct{ name, message, want string }{
		{
			"creates", `{"PowerstripProtocolVersion":1,"Type":"pre-hook","Later":[1],"ClientRequest":{"Method":"POST","Request":"/v1.16/containers/create?name=a","Body":` + quoted(body) + `,"New":{"a":1.0}}}`,
			`{"PowerstripProtocolVersion":1,"Later":[1],"ModifiedClientRequest":{"Method":"POST","Request":"/v1.16/containers/create?name=a","Body":` + plain(quoted(changed)) + `,"New":{"a":1.0}}}`,
		},
		{
			"without a version", `{"PowerstripProtocolVersion":1,"Type":"pre-hook","ClientRequest":{"Method":"POST","Request":"/containers/create","Body":` + quoted(body) + `}}`,
			`{"PowerstripProtocolVersion":1,"ModifiedClientRequest":{"Method":"POST","Request":"/containers/create","Body":` + plain(quoted(changed)) + `}}`,
		},
		{
			"something else", `{"PowerstripProtocolVersion":1,"Type":"pre-hook","ClientRequest":{"Method":"POST","Request":"/v1.16/images/create","Body":"\u003cno JSON"}}`,
			`{"PowerstripProtocolVersion":1,"ModifiedClientRequest":{"Method":"POST","Request":"/v1.16/images/create","Body":"\u003cno JSON"}}`,
		},
		{
			"no body", `{"PowerstripProtocolVersion":1,"Type":"pre-hook","ClientRequest":{"Method":"GET","Request":"/info","Body":null}}`,
			`{"PowerstripProtocolVersion":1,"ModifiedClientRequest":{"Method":"GET","Request":"/info","Body":null}}`,
		},
		{
			"post", `{"PowerstripProtocolVersion":1,"Type":"post-hook","ClientRequest":{"Method":"POST","Request":"/v1.16/containers/create","Body":"{}"},"ServerResponse":{"ContentType":"application/json","Body":"{\"Id\":\"x\"}","Code":201,"More":1}}`,
			`{"PowerstripProtocolVersion":1,"ModifiedServerResponse":{"ContentType":"application/json","Body":"{\"Id\":\"x\"}","Code":201,"More":1}}`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if status, got := hook(newAdapter(someNetworks()), tt.message); status != http.StatusOK || got != tt.want {
				t.Errorf("got  %d %s\nwant %s", status, got, tt.want)
			}
		})
	}
}

func TestHooksRefuse(t *testing.T) {
	create := func(body string) string {
		b, _ := json.Marshal(body)
		return `{"PowerstripProtocolVersion":1,"Type":"pre-hook","ClientRequest":{"Method":"POST","Request":"/containers/create","Body":` + string(b) + `}}`
	}
	for _, tt := range []struct {
		name, message string
		status        int
	}{
		{"empty", "", 400},
		{"no JSON", "x", 400},
		{"array", "[]", 400},
		{"other protocol", `{"PowerstripProtocolVersion":2,"Type":"pre-hook","ClientRequest":{}}`, 400},
		{"no protocol", `{"Type":"pre-hook","ClientRequest":{}}`, 400},
		{"other type", `{"PowerstripProtocolVersion":1,"Type":"hook","ClientRequest":{}}`, 400},
		{"no request", `{"PowerstripProtocolVersion":1,"Type":"pre-hook"}`, 400},
		{"request of numbers", `{"PowerstripProtocolVersion":1,"Type":"pre-hook","ClientRequest":{"Method":1,"Request":2}}`, 400},
		{"no response", `{"PowerstripProtocolVersion":1,"Type":"post-hook","ClientRequest":{}}`, 400},
		{"body of numbers", `{"PowerstripProtocolVersion":1,"Type":"pre-hook","ClientRequest":{"Method":"POST","Request":"/containers/create","Body":1}}`, 400},
		{"body no JSON", create("x"), 400},
		{"unknown network", create(`{"Env":["SP_NETWORK=nope"]}`), 400},
		{"overlap", create(`{"Env":["SOCKETPLANE_CIDR=10.6.1.0/24"]}`), 409},
		{"body too large", create(`{"A":"` + strings.Repeat("a", MaxCreate) + `"}`), 413},
		{"all too large", strings.Repeat(" ", maxEnvelope+1), 413},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, got := hook(newAdapter(someNetworks()), tt.message)
			var answer struct{ Message string }
			if err := json.Unmarshal([]byte(got), &answer); err != nil || status != tt.status || answer.Message == "" || len(answer.Message) > 500 {
				t.Errorf("got %d %.600s", status, got)
			}
		})
	}
}

func FuzzAdapter(f *testing.F) {
	for _, s := range []string{
		`{"PowerstripProtocolVersion":1,"Type":"pre-hook","ClientRequest":{"Method":"POST","Request":"/v1.16/containers/create?name=a","Body":"{\"Env\":[\"SP_NETWORK=web\"]}"}}`,
		`{"PowerstripProtocolVersion":1,"Type":"post-hook","ClientRequest":{},"ServerResponse":{"ContentType":"a","Body":"b","Code":1}}`,
		`{"PowerstripProtocolVersion":1,"Type":"pre-hook","ClientRequest":{"Method":"GET","Request":"/%zz","Body":null}}`, `{}`, ``,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, message string) {
		status, got := hook(newAdapter(someNetworks()), message)
		if !json.Valid([]byte(got)) || status >= 500 {
			t.Fatalf("%q: %d %q", message, status, got)
		}
	})
}
