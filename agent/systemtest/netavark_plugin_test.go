package systemtest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// Promise: setup and teardown may be repeated; a setup that fails, or that is asked by
// somebody without root's rights, leaves nothing.
func TestNetavarkPlugin(t *testing.T) {
	makeNetwork(t, 1, "navp", "10.77.0.0/24")
	before := traces(t, 1)
	ns := namespace(t, 1, "navp")
	must(t, 1, "sh", "-c", `mkdir -p "${1%/*}" && ln -sf "$(readlink -f "$(command -v socketplane)")" "$1"`, "sh", netavarkPlugin)
	const asked = `{"container_id":"c1","container_name":"one","port_mappings":null,"network":{"name":"navp","id":"x","driver":"socketplane-netavark","options":{"dns":"192.0.2.53"}},"network_options":{"interface_name":"eth0"%s}}`
	call := func(more string, args ...string) (r result, said struct {
		Error       string
		APIVersion  string   `json:"api_version"`
		NameServers []string `json:"dns_server_ips"`
		Interfaces  map[string]struct {
			MAC     string `json:"mac_address"`
			Subnets []struct{ Gateway, IPNet string }
		}
	},
	) {
		t.Helper()
		r = tryInput(t, 1, fmt.Sprintf(asked, more), append([]string{netavarkPlugin}, args...)...)
		if r.stdout != "" {
			if err := json.Unmarshal([]byte(r.stdout), &said); err != nil {
				t.Fatalf("%v: %v in %q", args, err, r.stdout)
			}
		}
		return r, said
	}
	if r, said := call("", "info"); r.code != 0 || said.APIVersion != "1.0.0" {
		t.Errorf("info: %+v", r)
	}
	first, one := call("", "setup", ns)
	if first.code != 0 || len(one.Interfaces["eth0"].Subnets) != 1 || len(one.NameServers) != 1 {
		t.Fatalf("setup: %+v", first)
	}
	if again, _ := call("", "setup", ns); again.stdout != first.stdout {
		t.Errorf("setup again: %+v, before %s", again, first.stdout)
	}
	if r, said := call(`,"static_ips":["10.77.0.99"]`, "setup", ns); r.code == 0 || !strings.Contains(said.Error, "10.77.0.") {
		t.Errorf("setup with another address: %+v", r)
	}
	in := inside{door: door{exec: inNetns}, host: 1, cname: "navp"}
	if err := in.reaches(t, one.Interfaces["eth0"].Subnets[0].Gateway); err != nil {
		t.Error(err)
	}
	for range 2 {
		if r, _ := call("", "teardown", ns); r.code != 0 || r.stdout != "" {
			t.Errorf("teardown: %+v", r)
		}
	}
	endpointGone(t, 1, "one")
	if r, said := call(`,"static_ips":["10.99.0.1"]`, "setup", ns); r.code == 0 || !strings.Contains(said.Error, "outside the subnet") {
		t.Errorf("an address of another network: %+v", r)
	}
	// Rootless Podman runs it in a user namespace, as root there, and with this variable.
	r := tryInput(t, 1, fmt.Sprintf(asked, ""), "unshare", "--user", "--map-root-user", "env", "_CONTAINERS_USERNS_CONFIGURED=done", netavarkPlugin, "setup", ns)
	if r.code == 0 || !strings.Contains(r.stdout, `{"error":"rootless Podman cannot use`) {
		t.Errorf("rootless: %+v", r)
	}
	leavesNothing(t, 1, before)
}
