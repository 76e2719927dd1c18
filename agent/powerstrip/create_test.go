package powerstrip

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/socketplane/socketplane/agent/api"
)

func TestCreate(t *testing.T) {
	for _, tt := range []struct {
		name, body, want string
		made             []api.CreateNetworkRequest
	}{
		{name: "nothing asked", body: `{ "Image":"a" ,"Env":["A=b"],"HostConfig":{"NetworkMode":"host"}}`, want: `{ "Image":"a" ,"Env":["A=b"],"HostConfig":{"NetworkMode":"host"}}`},
		{name: "no environment", body: `{"Image":"a"}`, want: `{"Image":"a"}`},
		{name: "null", body: `{"Env":null}`, want: `{"Env":null}`},
		{name: "a variable without a value", body: `{"Env":["SP_NETWORK"]}`, want: `{"Env":["SP_NETWORK"]}`},
		{name: "nothing at all", body: ``, want: ``},
		{name: "by name", body: `{"X":1.0,"Env":["SP_NETWORK=web"],"HostConfig":{"B":"<&>","NetworkMode":"default","Z":[1, 2]},"Y":null}`, want: `{"X":1.0,"Env":["SP_NETWORK=web"],"HostConfig":{"B":"<&>","NetworkMode":"web","Z":[1, 2]},"Y":null}`},
		{name: "the default network", body: `{"Env":["SP_NETWORK=default"]}`, want: `{"Env":["SP_NETWORK=default"],"HostConfig":{"NetworkMode":"socketplane"}}`},
		{name: "with spaces, as in 2015", body: `{"Env":["SP_NETWORK= web "],"HostConfig":null}`, want: `{"Env":["SP_NETWORK= web "],"HostConfig":{"NetworkMode":"web"}}`},
		{name: "the last counts", body: `{"Env":["SP_NETWORK=nope","SP_NETWORK=web"]}`, want: `{"Env":["SP_NETWORK=nope","SP_NETWORK=web"],"HostConfig":{"NetworkMode":"web"}}`},
		{name: "other spelling", body: `{"env":["SP_NETWORK=web"],"hostConfig":{"networkmode":"bridge"}}`, want: `{"env":["SP_NETWORK=web"],"hostConfig":{"networkmode":"web"}}`},
		{name: "on it already", body: `{"Env":["SP_NETWORK=web"],"HostConfig":{"NetworkMode":"web"}}`, want: `{"Env":["SP_NETWORK=web"],"HostConfig":{"NetworkMode":"web"}}`},
		{name: "by subnet", body: `{"Env":["SOCKETPLANE_CIDR=10.6.0.0/16"]}`, want: `{"Env":["SOCKETPLANE_CIDR=10.6.0.0/16"],"HostConfig":{"NetworkMode":"web"}}`},
		{name: "by an address of it", body: `{"Env":["SOCKETPLANE_CIDR=10.6.9.9/16"]}`, want: `{"Env":["SOCKETPLANE_CIDR=10.6.9.9/16"],"HostConfig":{"NetworkMode":"web"}}`},
		{name: "both agree", body: `{"Env":["SOCKETPLANE_CIDR=10.6.0.1/16","SP_NETWORK=web"]}`, want: `{"Env":["SOCKETPLANE_CIDR=10.6.0.1/16","SP_NETWORK=web"],"HostConfig":{"NetworkMode":"web"}}`},
		{
			name: "made", body: `{"Env":["SOCKETPLANE_CIDR=10.7.0.9/24"]}`, want: `{"Env":["SOCKETPLANE_CIDR=10.7.0.9/24"],"HostConfig":{"NetworkMode":"cidr-10.7.0.0-24"}}`,
			made: []api.CreateNetworkRequest{{ID: "cidr-10.7.0.0-24", Subnet: "10.7.0.0/24", Gateway: "10.7.0.9"}},
		},
		{
			name: "made without a gateway", body: `{"Env":["SOCKETPLANE_CIDR=10.7.0.0/24"]}`, want: `{"Env":["SOCKETPLANE_CIDR=10.7.0.0/24"],"HostConfig":{"NetworkMode":"cidr-10.7.0.0-24"}}`,
			made: []api.CreateNetworkRequest{{ID: "cidr-10.7.0.0-24", Subnet: "10.7.0.0/24"}},
		},
		{
			name: "endpoint of the default network", body: `{"Env":["SP_NETWORK=web"],"NetworkingConfig":{"EndpointsConfig":{"default":{"IPAMConfig":{"IPv4Address":"10.6.0.9"}},"other":{}}}}`,
			want: `{"Env":["SP_NETWORK=web"],"NetworkingConfig":{"EndpointsConfig":{"web":{"IPAMConfig":{"IPv4Address":"10.6.0.9"}},"other":{}}},"HostConfig":{"NetworkMode":"web"}}`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := someNetworks()
			got, err := newAdapter(f).Create(t.Context(), []byte(tt.body))
			if err != nil || string(got) != tt.want {
				t.Errorf("got  %s, %v\nwant %s", got, err, tt.want)
			}
			if diff := cmp.Diff(tt.made, f.made); diff != "" {
				t.Errorf("made (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCreateRefuses(t *testing.T) {
	env := func(entries ...string) string {
		b, _ := json.Marshal(map[string]any{"Env": entries})
		return string(b)
	}
	for _, tt := range []struct {
		name, body, says string
		code             api.Code
	}{
		{"unknown network", env("SP_NETWORK=nope"), `"nope" does not exist`, api.CodeNotFound},
		{"empty name", env("SP_NETWORK="), "SP_NETWORK", api.CodeInvalid},
		{"path", env("SP_NETWORK=../x"), "SP_NETWORK", api.CodeInvalid},
		{"endless name", env("SP_NETWORK=" + strings.Repeat("x", 100000)), "100000 bytes", api.CodeInvalid},
		{"no CIDR", env("SOCKETPLANE_CIDR=10.6.0.1"), "SOCKETPLANE_CIDR", api.CodeInvalid},
		{"IPv6", env("SOCKETPLANE_CIDR=fd00::1/64"), "IPv4", api.CodeInvalid},
		{"too small", env("SOCKETPLANE_CIDR=10.7.0.1/31"), "/30", api.CodeInvalid},
		{"empty CIDR", env("SOCKETPLANE_CIDR="), "SOCKETPLANE_CIDR", api.CodeInvalid},
		{"overlap", env("SOCKETPLANE_CIDR=10.6.1.1/24"), `overlaps network "web"`, api.CodeConflict},
		{"not agreeing", env("SOCKETPLANE_CIDR=10.9.0.1/24", "SP_NETWORK=web"), "do not agree", api.CodeConflict},
		{"its own mode", `{"Env":["SP_NETWORK=web"],"HostConfig":{"NetworkMode":"host"}}`, `"host" and for SP_NETWORK=web`, api.CodeInvalid},
		{"another container's", `{"Env":["SOCKETPLANE_CIDR=10.8.0.1/24"],"HostConfig":{"NetworkMode":"container:x"}}`, `"container:x"`, api.CodeInvalid},
		{"environment of numbers", `{"Env":[1]}`, "Env", api.CodeInvalid},
		{"mode is a number", `{"Env":["SP_NETWORK=web"],"HostConfig":{"NetworkMode":1}}`, "NetworkMode", api.CodeInvalid},
		{"host config is none", `{"Env":["SP_NETWORK=web"],"HostConfig":[]}`, "HostConfig", api.CodeInvalid},
		{"two environments", `{"Env":["SP_NETWORK=web"],"env":[]}`, "twice", api.CodeInvalid},
		{"two endpoints", `{"Env":["SP_NETWORK=web"],"NetworkingConfig":{"EndpointsConfig":{"default":{},"web":{}}}}`, "EndpointsConfig", api.CodeInvalid},
		{"no JSON", `{"Env":`, "not JSON", api.CodeInvalid},
		{"no object", `[]`, "not a JSON object", api.CodeInvalid},
		{"two values", `{}{}`, "more follows", api.CodeInvalid},
		{"deep", strings.Repeat(`{"HostConfig":`, 20000), "not JSON", api.CodeInvalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := someNetworks()
			got, err := newAdapter(f).Create(t.Context(), []byte(tt.body))
			if err == nil || api.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.says) || len(err.Error()) > 400 {
				t.Errorf("got %s, %s %v", got, api.CodeOf(err), err)
			}
			if f.made != nil {
				t.Errorf("made %v", f.made)
			}
		})
	}
}

// Two containers that ask for the same new subnet at once are on one network.
func TestCreateRace(t *testing.T) {
	f := someNetworks()
	f.before = func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.all, f.before = append(f.all, network("theirs", "10.7.0.0/24", "10.7.0.1")), nil
	}
	got, err := newAdapter(f).Create(t.Context(), []byte(`{"Env":["SOCKETPLANE_CIDR=10.7.0.5/24"]}`))
	if err != nil || !strings.Contains(string(got), `"theirs"`) {
		t.Errorf("got %s, %v", got, err)
	}
}

// What keeps Docker from having the network is told.
func TestCreateWithoutDocker(t *testing.T) {
	a := newAdapter(someNetworks())
	a.cfg.DockerNetwork = func(_ context.Context, n string) (string, error) {
		return "", fmt.Errorf("%w", api.Errorf(api.CodeUnavailable, "Docker has no %s", n))
	}
	_, err := a.Create(t.Context(), []byte(`{"Env":["SP_NETWORK=web"]}`))
	if api.CodeOf(err) != api.CodeUnavailable || !errors.As(err, new(*api.Error)) {
		t.Errorf("got %v", err)
	}
}

func TestIsCreate(t *testing.T) {
	for path, want := range map[string]bool{
		"/containers/create": true, "/v1.41/containers/create": true, "/v1/containers/create": true,
		"/containers/create/": false, "/containers/x/create": false, "/v1.41/images/create": false, "/x/containers/create": false, "/v1.41/containers/create/../json": false,
	} {
		if got := IsCreate("POST", path); got != want {
			t.Errorf("%s: %v", path, got)
		}
	}
	if IsCreate("GET", "/containers/create") {
		t.Error("GET creates nothing")
	}
}

func FuzzCreate(f *testing.F) {
	for _, s := range []string{
		`{"Env":["SP_NETWORK=web"],"HostConfig":{"NetworkMode":""}}`, `{"Env":["SOCKETPLANE_CIDR=10.6.0.1/16"]}`, `{"Env":["SOCKETPLANE_CIDR=10.9.0.1/24"],"NetworkingConfig":{"EndpointsConfig":{"default":{}}}}`,
		`{"Env":null}`, `{"env":["SP_NETWORK=../x"],"ENV":[]}`, `[]`, ``, `{"Env":["SP_NETWORK=web"],"HostConfig":{"NetworkMode":"host"}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := newAdapter(someNetworks()).Create(t.Context(), body)
		if err != nil {
			if api.CodeOf(err) == api.CodeInternal || strings.Contains(err.Error(), "\n") {
				t.Fatalf("%q: %v", body, err)
			}
			return
		}
		if string(got) != string(body) && !json.Valid(got) {
			t.Fatalf("%q became %q", body, got)
		}
	})
}
