package api

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// refusingCluster refuses what changes the cluster, and notes what was asked.
type refusingCluster struct {
	ClusterService
	asked *[]string
}

func (c refusingCluster) refuse(what string) (Place, error) {
	if c.asked != nil {
		*c.asked = append(*c.asked, what)
	}
	return Place{}, Errorf(CodeConflict, "no: %s", what)
}

func (c refusingCluster) Bootstrap(_ context.Context, req BootstrapRequest) (Place, error) {
	return c.refuse("bootstrap " + req.Token)
}

func (c refusingCluster) Join(_ context.Context, req JoinRequest) (Place, error) {
	return c.refuse("join " + strings.Join(req.Addresses, ","))
}

func (c refusingCluster) Leave(context.Context, LeaveRequest) (Place, error) {
	return c.refuse("leave")
}

func (c refusingCluster) Bind(_ context.Context, req BindRequest) (Place, error) {
	return c.refuse("bind " + req.Iface)
}

// The calls of 2015 reach the cluster.
func TestLegacyCluster(t *testing.T) {
	var asked []string
	h := NewLegacyHandler(&legacyFake{}, refusingCluster{asked: &asked}, http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	for _, path := range []string{"bind?iface=eth1", "join?address=192.0.2.1", "leave"} {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/v0.1/cluster/"+path, nil))
	}
	if got := strings.Join(asked, "; "); got != "bind eth1; join 192.0.2.1; leave" {
		t.Error(got)
	}
}

// What is asked wrongly is refused before anybody is asked.
func TestClusterHandlerIsStrict(t *testing.T) {
	var asked []string
	h := NewClusterHandler(refusingCluster{asked: &asked}, slog.New(slog.DiscardHandler))
	for _, tt := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "/v1/cluster/join", "", 400},
		{"POST", "/v1/cluster/join", `{"addresses":["192.0.2.1"],"x":1}`, 400},
		{"POST", "/v1/cluster/join", `{"addresses":[]}{}`, 400},
		{"POST", "/v1/cluster/bind", `{"iface":` + strings.Repeat(" ", maxBody) + `""}`, 400},
		{"GET", "/v1/cluster/join", "", 404},
		{"POST", "/v1/cluster/nothing", "{}", 404},
		{"DELETE", "/v1/cluster", "", 404},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(tt.method, tt.path, strings.NewReader(tt.body)))
		var body errorBody
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || w.Code != tt.status {
			t.Errorf("%s %s %.60q: %d %s", tt.method, tt.path, tt.body, w.Code, w.Body)
		}
	}
	if len(asked) > 0 {
		t.Error(asked)
	}
}

func TestParseJoin(t *testing.T) {
	if all, err := ParseJoin([]string{"192.0.2.1", " 192.0.2.2 "}); err != nil || len(all) != 2 {
		t.Errorf("%v, %v", all, err)
	}
	if all, err := ParseJoin(nil); err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
	many := make([]string, 65)
	for _, bad := range [][]string{many, {""}, {"h1"}, {"192.0.2.1:8301"}, {"::1"}, {"0.0.0.0"}, {"127.0.0.1"}, {"224.0.0.1"}, {"255.255.255.255"}, {"192.0.2.1/24"}, {strings.Repeat("1", 1000)}} {
		if all, err := ParseJoin(bad); CodeOf(err) != CodeInvalid || len(err.Error()) > 300 {
			t.Errorf("%.40q: %v, %v", bad, all, err)
		}
	}
}
