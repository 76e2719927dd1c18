package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// askLegacy sends a request to the API of 2015, with the Content-Type that curl -d has.
func askLegacy(svc LegacyService, method, path, body string) *httptest.ResponseRecorder {
	adapter := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "adapter") })
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	NewLegacyHandler(svc, refusingCluster{}, adapter, slog.New(slog.DiscardHandler)).ServeHTTP(w, r)
	return w
}

// legacyFake has what a script of 2015 attached, too.
type legacyFake struct{ fakeService }

var aLegacyEndpoint = func() Endpoint {
	e := anEndpoint
	e.ID, e.ContainerID, e.ContainerName, e.Source, e.NetNS, e.Port = "abc", "abc", "old", SourceLegacy, "/proc/1234/ns/net", "spv2"
	return e
}()

func (f *legacyFake) Endpoints(ctx context.Context) ([]Endpoint, error) {
	all, err := f.fakeService.Endpoints(ctx)
	stopped := aLegacyEndpoint
	stopped.ID, stopped.ContainerID, stopped.Attached = "gone", "gone", false
	second := aLegacyEndpoint
	second.ID = "abc2"
	return append(all, aLegacyEndpoint, second, stopped), err
}

func (f *legacyFake) Attach(ctx context.Context, r AttachRequest) (Endpoint, error) {
	e := aLegacyEndpoint
	e.NetNS = r.NetNS
	return e, f.ask("attach", r)
}

func TestLegacy(t *testing.T) {
	const shown = `{"container_id":"abc","container_name":"/old","container_pid":"1234","network":"foo","ovs_port_id":"spv2",` +
		`"connection_details":{"name":"spv2","ip":"10.6.0.2","subnet":"/16","mac":"02:42:0a:06:00:02","gateway":"10.6.0.1"}}`
	const other = `{"container_id":"c1","container_name":"/web","container_pid":"0","network":"foo","ovs_port_id":"spv1",` +
		`"connection_details":{"name":"spv1","ip":"10.6.0.2","subnet":"/16","mac":"02:42:0a:06:00:02","gateway":"10.6.0.1"}}`
	const netShown = `{"id":"foo","subnet":"10.6.0.0/16","gateway":"10.6.0.1","vlan":7}`
	const configuration = `{"bridge_ip":"10.6.0.1","bridge_name":"docker0-ovs","bridge_cidr":"10.6.0.0/16","bridge_mtu":1450}`
	attach := AttachRequest{ID: "abc", ContainerName: "old", Network: "foo", Source: SourceLegacy, NetNS: "/proc/1234/ns/net"}
	byDefault := attach
	byDefault.Network, byDefault.ContainerName = DefaultNetwork, ""
	for _, tt := range []struct {
		name, method, path, body string
		status                   int
		want                     string
		asked                    []any
	}{
		{"networks", "GET", "/v0.1/networks", "", 200, "[" + netShown + "]", []any{"networks"}},
		{"network", "GET", "/v0.1/networks/foo", "", 200, netShown, []any{"network", "foo"}},
		{"create", "POST", "/v0.1/networks", `{ "id": "foo", "subnet": "10.6.0.9/16", "gateway": "x", "vlan": 3, "more": [] }`, 200, netShown, []any{"create", CreateNetworkRequest{ID: "foo", Subnet: "10.6.0.0/16"}}},
		{"create on any subnet", "POST", "/v0.1/networks", `{"id":"foo","subnet":""}`, 200, netShown, []any{"create", CreateNetworkRequest{ID: "foo"}}},
		{"delete", "DELETE", "/v0.1/networks/foo", "", 200, "", []any{"delete", "foo"}},
		{"connections", "GET", "/v0.1/connections", "", 200, `{"abc":` + shown + `,"abc2":` + shown + `,"c1":` + other + `}`, []any{"endpoints"}},
		{"connection", "GET", "/v0.1/connections/abc", "", 200, shown, []any{"endpoints"}},
		{"another door's", "GET", "/v0.1/connections/c1", "", 200, other, []any{"endpoints"}},
		{"connect", "POST", "/v0.1/connections", `{"container_id":"abc","container_name":"/old","container_pid":"1234","network":"foo","ovs_port_id":"x","connection_details":{}}`, 200, shown, []any{"attach", attach}},
		{"connect by a number", "POST", "/v0.1/connections", `{"container_id":"abc","container_name":"old","container_pid":1234,"network":"foo"}`, 200, strings.Replace(shown, "/old", "old", 1), []any{"attach", attach}},
		{"connect to the default network", "POST", "/v0.1/connections", `{"container_id":"abc","container_pid":" 1234\n","network":""}`, 200, strings.Replace(shown, "/old", "", 1), []any{"attach", byDefault}},
		{"disconnect", "DELETE", "/v0.1/connections/abc", "", 200, "", []any{"release", "abc"}},
		{"disconnect what has ended", "DELETE", "/v0.1/connections/gone", "", 200, "", []any{"release", "gone"}},
		{"configuration", "GET", "/v0.1/configuration", "", 200, configuration, []any{"network", "default"}},
		{"configure as it is", "POST", "/v0.1/configuration", configuration, 200, "", []any{"network", "default"}},
		{"ping", "GET", "/v1/ping", "", 200, "pong", nil},
		{"ping of the old", "GET", "/v0.1/ping", "", 200, "pong", nil},
		{"adapter", "POST", "/adapter", "{}", 200, "adapter", nil},
		{"adapter below the version", "POST", "/v0.1/adapter", "{}", 200, "adapter", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fake := &legacyFake{}
			w := askLegacy(fake, tt.method, tt.path, tt.body)
			if w.Code != tt.status || w.Body.String() != tt.want {
				t.Errorf("got  %d %s\nwant %d %s", w.Code, w.Body, tt.status, tt.want)
			}
			if strings.HasPrefix(tt.want, "{") || strings.HasPrefix(tt.want, "[") {
				if got := w.Header().Get("Content-Type"); got != "application/json; charset=utf-8" {
					t.Errorf("Content-Type is %q", got)
				}
			}
			if diff := cmp.Diff(tt.asked, fake.asked); diff != "" {
				t.Errorf("asked (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLegacyRefuses(t *testing.T) {
	long := strings.Repeat("x", 65)
	for _, tt := range []struct {
		name, method, path, body string
		status                   int
	}{
		{"no body", "POST", "/v0.1/connections", "", 400},
		{"no JSON", "POST", "/v0.1/connections", "x", 400},
		{"array", "POST", "/v0.1/networks", "[]", 400},
		{"two values", "POST", "/v0.1/networks", `{"id":"a"}{}`, 400},
		{"too large", "POST", "/v0.1/networks", `{"id":"` + strings.Repeat("a", maxBody) + `"}`, 413},
		{"no name", "POST", "/v0.1/networks", `{}`, 400},
		{"path for a name", "POST", "/v0.1/networks", `{"id":"../x","subnet":"10.1.0.0/16"}`, 400},
		{"Docker's name", "POST", "/v0.1/networks", `{"id":"host","subnet":"10.1.0.0/16"}`, 400},
		{"no CIDR", "POST", "/v0.1/networks", `{"id":"a","subnet":"10.1.0.0"}`, 400},
		{"IPv6", "POST", "/v0.1/networks", `{"id":"a","subnet":"fd00::/64"}`, 400},
		{"no id", "POST", "/v0.1/connections", `{"container_pid":"1","network":"foo"}`, 400},
		{"no pid", "POST", "/v0.1/connections", `{"container_id":"a"}`, 400},
		{"pid 0", "POST", "/v0.1/connections", `{"container_id":"a","container_pid":0}`, 400},
		{"pid of nothing", "POST", "/v0.1/connections", `{"container_id":"a","container_pid":null}`, 400},
		{"negative pid", "POST", "/v0.1/connections", `{"container_id":"a","container_pid":"-1"}`, 400},
		{"pid too large", "POST", "/v0.1/connections", `{"container_id":"a","container_pid":"4194305"}`, 400},
		{"a path for a pid", "POST", "/v0.1/connections", `{"container_id":"a","container_pid":"1/../2"}`, 400},
		{"a fraction", "POST", "/v0.1/connections", `{"container_id":"a","container_pid":1.5}`, 400},
		{"pid as object", "POST", "/v0.1/connections", `{"container_id":"a","container_pid":{}}`, 400},
		{"bad name", "POST", "/v0.1/connections", `{"container_id":"a","container_pid":"2","container_name":"/a/../b"}`, 400},
		{"bad network", "POST", "/v0.1/connections", `{"container_id":"a","container_pid":"2","network":"../b"}`, 400},
		{"long id", "DELETE", "/v0.1/connections/" + long, "", 400},
		{"escaped path", "DELETE", "/v0.1/connections/..%2f..%2fx", "", 400},
		{"empty id", "GET", "/v0.1/connections/", "", 400},
		{"delete no network", "DELETE", "/v0.1/networks", "", 404},
		{"delete no connection", "DELETE", "/v0.1/connections", "", 404},
		{"unknown", "GET", "/v0.1/connections/nope", "", 404},
		{"a part of an id", "DELETE", "/v0.1/connections/ab", "", 404},
		{"stopped", "GET", "/v0.1/connections/gone", "", 404},
		{"another door's", "DELETE", "/v0.1/connections/c1", "", 409},
		{"bind without an interface", "POST", "/v0.1/cluster/bind", "", 400},
		{"bind", "POST", "/v0.1/cluster/bind?iface=eth1", "", 409},
		{"join without an address", "POST", "/v0.1/cluster/join?address=", "", 400},
		{"join", "POST", "/v0.1/cluster/join?address=192.0.2.1", "", 409},
		{"leave", "POST", "/v0.1/cluster/leave", "", 409},
		{"other bridge", "POST", "/v0.1/configuration", `{"bridge_name":"br0"}`, 501},
		{"other MTU", "POST", "/v0.1/configuration", `{"bridge_mtu":9000}`, 501},
		{"configuration of bytes", "POST", "/v0.1/configuration", "\x01\x02", 400},
		{"unknown path", "GET", "/v0.1/x", "", 404},
		{"other method", "PUT", "/v0.1/networks", "", 404},
		{"other version", "GET", "/v1/networks", "", 404},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fake := &legacyFake{}
			w := askLegacy(fake, tt.method, tt.path, tt.body)
			text := strings.TrimSuffix(w.Body.String(), "\n")
			if w.Code != tt.status || text == "" || strings.Contains(text, "\n") || len(text) > 400 {
				t.Errorf("got %d %.500q, want %d", w.Code, text, tt.status)
			}
			if got := w.Header().Get("Content-Type"); got != "text/plain; charset=utf-8" {
				t.Errorf("Content-Type is %q", got)
			}
			if len(fake.asked) > 0 && fake.asked[0] != "endpoints" && fake.asked[0] != "network" {
				t.Errorf("it got through: %v", fake.asked)
			}
		})
	}
}

// Each code is its own status, and the sentence is all of the answer.
func TestLegacyStatuses(t *testing.T) {
	for code, status := range map[Code]int{
		CodeInvalid: 400, CodeNotFound: 404, CodeConflict: 409, CodeInUse: 409, CodeExhausted: 409, CodeUnavailable: 503, CodeInternal: 500,
	} {
		fake := &legacyFake{}
		fake.err = &Error{Code: code, Message: "several\nlines", Cause: errors.New("secret")}
		for _, path := range []string{"/v0.1/networks", "/v0.1/networks/a", "/v0.1/connections", "/v0.1/connections/a", "/v0.1/configuration"} {
			w := askLegacy(fake, http.MethodGet, path, "")
			if want := status; w.Code != want && (path != "/v0.1/configuration" || code != CodeNotFound) || w.Code != 200 && w.Body.String() != "several; lines\n" {
				t.Errorf("%s, %s: %d %q", code, path, w.Code, w.Body)
			}
		}
	}
}

func TestNoBrowser(t *testing.T) {
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	refuse := func(w http.ResponseWriter, status int, message string) { http.Error(w, message, status) }
	for _, tt := range []struct {
		host, header, value string
		anywhere, loopback  bool
	}{
		{"localhost:6675", "", "", true, true},
		{"LOCALHOST", "", "", true, true},
		{"127.0.0.1:2375", "", "", true, true},
		{"127.8.8.8", "", "", true, true},
		{"[::1]:2375", "", "", true, true},
		{"", "", "", true, true},
		{"localhost:6675", "Origin", "http://example.com", false, false},
		{"localhost:6675", "Origin", "null", false, false},
		{"localhost:6675", "Origin", "http://localhost:3000", false, false},
		{"localhost:6675", "Origin", "http://localhost:6675", false, true}, // what a websocket library calls itself
		{"localhost:6675", "Sec-Fetch-Site", "cross-site", false, false},
		{"localhost:6675", "Sec-Fetch-Site", "none", true, true},
		{"example.com", "", "", true, false},
		{"localhost.example.com:6675", "", "", true, false},
		{"127.0.0.1.example.com", "", "", true, false},
		{"10.0.0.1:6675", "", "", true, false},
		{"example.com:6675", "Origin", "http://example.com:6675", false, false},
	} {
		for loopback, want := range map[bool]bool{false: tt.anywhere, true: tt.loopback} {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Host = tt.host
			if tt.header != "" {
				r.Header.Set(tt.header, tt.value)
			}
			w := httptest.NewRecorder()
			NoBrowser(ok, loopback, refuse).ServeHTTP(w, r)
			if got := w.Code == http.StatusOK; got != want || !got && w.Code != http.StatusForbidden {
				t.Errorf("%+v, loopback %v: %d %s", tt, loopback, w.Code, w.Body)
			}
		}
	}
}

func TestParseCIDR(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.6.1/24": "10.0.6.0/24 10.0.6.1", "10.0.6.0/24": "10.0.6.0/24 invalid IP", "10.0.6.255/24": "10.0.6.0/24 10.0.6.255", "10.9.9.9/8": "10.0.0.0/8 10.9.9.9",
		"10.0.6.1": "", "": "", "10.0.6.1/31": "", "10.0.6.1/7": "", "fd00::1/64": "", "127.0.0.1/8": "", "224.1.1.1/24": "", "::ffff:10.0.6.1/120": "", "10.0.6.1/024": "",
	} {
		subnet, gateway, err := ParseCIDR(in)
		if got := subnet.String() + " " + gateway.String(); err == nil && got != want || err != nil && want != "" {
			t.Errorf("%s: %s, %v", in, got, err)
		}
	}
}

func FuzzLegacyConnection(f *testing.F) {
	for _, s := range []string{
		`{"container_id":"abc","container_name":"/old","container_pid":"1234","network":"foo"}`, `{"container_id":"abc","container_pid":1234}`,
		`{"container_id":"../a","container_pid":"1e3"}`, `{"container_pid":{"a":[]}}`, `null`, ``, `[]`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		fake := &legacyFake{}
		w := askLegacy(fake, http.MethodPost, "/v0.1/connections", body)
		if w.Code >= 500 || w.Code == 200 && !json.Valid(w.Body.Bytes()) {
			t.Fatalf("%q: %d %s", body, w.Code, w.Body)
		}
		if w.Code != 200 && fake.asked != nil {
			t.Fatalf("%q got through: %v", body, fake.asked)
		}
	})
}

func FuzzLegacyNetwork(f *testing.F) {
	for _, s := range []string{`{"id":"foo","subnet":"10.1.2.3/16"}`, `{"id":"foo","subnet":"::/0"}`, `{"ID":"a","id":"b"}`, `{"id":1}`, ``, `{"bridge_ip":"10.6.0.1","bridge_name":"br0","bridge_cidr":"10.6.0.0/16","bridge_mtu":1450}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		for _, path := range []string{"/v0.1/networks", "/v0.1/configuration"} {
			w := askLegacy(&legacyFake{}, http.MethodPost, path, body)
			if w.Code >= 500 && w.Code != http.StatusNotImplemented { // another bridge is
				t.Fatalf("%q to %s: %d %s", body, path, w.Code, w.Body)
			}
		}
	})
}
