package agent

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestAllEndpoints: each host's endpoints are shown, and those of this host once.
func TestAllEndpoints(t *testing.T) {
	h := newTestHost(t)
	h.mustAttach("c1", "foo", "/ns/1")
	h.put("socketplane/v1/endpoints/foo/"+peerID, `{"version":1,"endpoints":[`+
		`{"id":"c2","container_name":"web","ip":"10.6.0.77","mac":"02:42:0a:06:00:4d","source":"docker","attached":true,`+
		`"ports":[{"proto":"tcp","container_port":80}],"host_ports":[8080]},`+
		`{"id":"c0","ip":"10.6.0.78","mac":"02:42:0a:06:00:4e","source":"connect","attached":false}]}`)
	h.put("socketplane/v1/endpoints/bar/"+peerID, `{"version":1,"endpoints":[{"id":"c3","ip":"10.7.0.2","mac":"02:42:0a:07:00:02","source":"cni","attached":true}]}`)
	h.converge()
	list, err := h.AllEndpoints(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range list {
		got = append(got, fmt.Sprint(e.ID, " ", e.ContainerName, " ", e.Network, " ", e.IP, "/", e.PrefixLen, " ", e.Gateway, " ", e.MTU, " ", e.Ports, " ", e.Host, " ", e.Attached, e.Port, e.NetNS))
	}
	want := []string{
		"c0  foo 10.6.0.78/16 10.6.0.1 1450 [] h2 false",
		"c1  foo 10.6.0.2/16 10.6.0.1 1450 [] h1 true",
		"c2 web foo 10.6.0.77/16 10.6.0.1 1450 [0.0.0.0:8080->80/tcp] h2 true",
		"c3  bar 10.7.0.2/29 10.7.0.1 1450 [] h2 true",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
