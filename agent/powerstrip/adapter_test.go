package powerstrip

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
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

// preHook is Powerstrip's message ahead of a container's creation.
func preHook(body string) string {
	b, _ := json.Marshal(body)
	return `{"PowerstripProtocolVersion":1,"Type":"pre-hook","ClientRequest":{"Method":"POST","Request":"/v1.24/containers/create?name=a","Body":` + string(b) + `}}`
}

// asPowerstrip reads an answer as Powerstrip does: whatever the status, and with
// no answer to its client when ModifiedClientRequest is missing.
func asPowerstrip(answer string) (method, path, name, body string, err error) {
	var m struct {
		PowerstripProtocolVersion int
		ModifiedClientRequest     *struct {
			Method, Request string
			Body            *string
		}
	}
	if err := json.Unmarshal([]byte(answer), &m); err != nil {
		return "", "", "", "", err
	}
	if m.PowerstripProtocolVersion != 1 || m.ModifiedClientRequest == nil || m.ModifiedClientRequest.Body == nil {
		return "", "", "", "", fmt.Errorf("Powerstrip's client hangs on %.200s", answer)
	}
	u, err := url.Parse(m.ModifiedClientRequest.Request)
	if err != nil {
		return "", "", "", "", err
	}
	return m.ModifiedClientRequest.Method, u.Path, u.Query().Get("name"), *m.ModifiedClientRequest.Body, nil
}

// TestHooksRefuse: a refusal is a request that dockerd refuses, with the
// sentence in what dockerd says of it.
func TestHooksRefuse(t *testing.T) {
	for _, tt := range []struct{ name, message, path, says string }{
		{"unknown network", preHook(`{"Env":["SP_NETWORK=nope"]}`), "/v1.24/containers/create", `SP_NETWORK: network "nope" does not exist`},
		{"overlap", preHook(`{"Env":["SOCKETPLANE_CIDR=10.6.1.0/24"]}`), "/v1.24/containers/create", `overlaps network "web"`},
		{"body no JSON", preHook("x"), "/v1.24/containers/create", "not JSON"},
		{"body too large", preHook(`{"A":"` + strings.Repeat("a", MaxCreate) + `"}`), "/v1.24/containers/create", "too large"},
		{"all too large", strings.Repeat(" ", maxEnvelope+1), "/containers/create", "too large"},
		{"no request", `{"PowerstripProtocolVersion":1,"Type":"pre-hook"}`, "/containers/create", "ClientRequest"},
		{"request of numbers", `{"PowerstripProtocolVersion":1,"Type":"pre-hook","ClientRequest":{"Method":1,"Request":2}}`, "/containers/create", "Method"},
		{"body of numbers", `{"PowerstripProtocolVersion":1,"Type":"pre-hook","ClientRequest":{"Method":"POST","Request":"/containers/create","Body":1}}`, "/containers/create", "Body"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, got := hook(newAdapter(someNetworks()), tt.message)
			method, path, name, body, err := asPowerstrip(got)
			if err != nil || status != http.StatusOK || method != http.MethodPost || path != tt.path || len(got) > 3000 {
				t.Fatalf("%d %s %s: %v", status, method, path, err)
			}
			var c struct{ Env []string }
			if err := json.Unmarshal([]byte(body), &c); err != nil || len(c.Env) != 1 || !strings.HasPrefix(c.Env[0], "=socketplane: ") || !strings.Contains(c.Env[0], tt.says) {
				t.Errorf("dockerd gets %s, which it does not refuse with %q (%v)", body, tt.says, err)
			}
			if !strings.HasPrefix(name, "socketplane: ") || !strings.Contains(name, tt.says) {
				t.Errorf("the container's name is %q, which an old dockerd does not refuse with %q", name, tt.says)
			}
		})
	}
}

// What is no message of the protocol has no answer in it.
func TestHooksOfNoProtocol(t *testing.T) {
	for name, message := range map[string]string{
		"empty": "", "no JSON": "x", "array": "[]",
		"other protocol": `{"PowerstripProtocolVersion":2,"Type":"pre-hook","ClientRequest":{}}`,
		"no protocol":    `{"Type":"pre-hook","ClientRequest":{}}`,
		"no type":        `{"PowerstripProtocolVersion":1,"ClientRequest":{}}`,
		"other type":     `{"PowerstripProtocolVersion":1,"Type":"hook","ClientRequest":{}}`,
	} {
		status, got := hook(newAdapter(someNetworks()), message)
		var answer struct{ Message string }
		if err := json.Unmarshal([]byte(got), &answer); err != nil || status != http.StatusBadRequest || answer.Message == "" || len(answer.Message) > 500 {
			t.Errorf("%s: got %d %.600s", name, status, got)
		}
	}
}

// A post-hook without a response gets one, for the same reason.
func TestPostHookRefuses(t *testing.T) {
	status, got := hook(newAdapter(someNetworks()), `{"PowerstripProtocolVersion":1,"Type":"post-hook","ClientRequest":{}}`)
	var m struct {
		ModifiedServerResponse struct {
			ContentType, Body string
			Code              int
		}
	}
	if err := json.Unmarshal([]byte(got), &m); err != nil || status != http.StatusOK || m.ModifiedServerResponse.Code != http.StatusBadRequest ||
		m.ModifiedServerResponse.ContentType != "application/json" || !strings.Contains(m.ModifiedServerResponse.Body, "ServerResponse") {
		t.Errorf("%d %s: %v", status, got, err)
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
