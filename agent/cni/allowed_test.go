package cni

import (
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/socketplane/socketplane/agent/api"
)

func TestAllowAddresses(t *testing.T) {
	h := newHost(t)
	for config, want := range map[string]string{
		`"allowAddresses":["10.6.0.200"]`: "10.6.0.200 false",
		`"allowAddresses":["10.6.0.200"],"args":{"cni":{"allowAddresses":["10.6.1.0/24"]}}`: "10.6.0.200 10.6.1.0/24 false",
		`"allowAddresses":["10.99.0.0/16"],"forwarding":true`:                               "10.99.0.0/16 true",
		`"args":{"cni":{"allowAddresses":["10.99.0.0/16"],"forwarding":true}}`:              "10.99.0.0/16 true",
		`"allowAddresses":[]`: " false",
	} {
		c, err := decode([]byte(`{"cniVersion":"1.1.0","name":"net",`+config+`}`), true)
		if err != nil {
			t.Fatal(err)
		}
		req, err := asked(c, h.args(""))
		if err != nil {
			t.Errorf("%s: %v", config, err)
			continue
		}
		got := strings.Join(req.AllowAddresses, " ")
		if req.Forwarding {
			got += " true"
		} else {
			got += " false"
		}
		if got != want {
			t.Errorf("%s: asked for %s, want %s", config, got, want)
		}
	}
	for _, bad := range []string{
		`"allowAddresses":["x"]`, `"allowAddresses":["127.0.0.1"]`, `"allowAddresses":["10.6.0.1/16"]`, `"allowAddresses":"10.6.0.200"`,
		`"allowAddresses":["10.6.0.2"` + strings.Repeat(`,"10.6.0.3"`, 16) + `]`, `"forwarding":"yes"`, `"args":{"cni":{"allowAddresses":["x"]}}`,
	} {
		c, err := decode([]byte(`{"cniVersion":"1.1.0","name":"net",`+bad+`}`), true)
		if err == nil {
			_, err = asked(c, h.args(""))
		}
		if code := failed(err); code != types.ErrInvalidNetworkConfig && code != types.ErrDecodingFailure {
			t.Errorf("%s: %v", bad, err)
		}
	}
	// CHECK knows what ADD asked for.
	allowed, err := api.ParseAllowed([]string{"10.6.0.200"})
	if err != nil {
		t.Fatal(err)
	}
	e := api.Endpoint{IfName: "eth0", AllowAddresses: allowed}
	if err := given(api.AttachRequest{AllowAddresses: []string{"10.6.0.200/32"}}, e); err != nil {
		t.Errorf("the same: %v", err)
	}
	for _, req := range []api.AttachRequest{{AllowAddresses: []string{"10.6.0.201"}}, {AllowAddresses: []string{"10.6.0.200"}, Forwarding: true}} {
		if failed(given(req, e)) != codeDiffers {
			t.Errorf("%+v passes", req)
		}
	}
}
