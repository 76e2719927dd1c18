package systemtest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// curl is a request of a script of 2015 on host k, with its status.
func curl(t testing.TB, k int, base string, args ...string) (status, body string) {
	t.Helper()
	out := must(t, k, append([]string{"sh", "-c", `exec curl -sS -m 30 -w '\n%{http_code}' "$@"`, "curl"}, append(strings.Fields(base), args...)...)...)
	i := strings.LastIndexByte(out, '\n')
	return out[i+1:], out[:i]
}

// onSocket and onTCP are the two ways to the API of 2015.
const (
	onSocket = "--unix-socket /run/socketplane/socketplane.sock"
	onTCP    = "-H Accept:"
	legacyV0 = "http://localhost:6675/v0.1"
)

// connection is what the API of 2015 shows of a container.
type connection struct {
	ContainerID   string `json:"container_id"`
	ContainerName string `json:"container_name"`
	ContainerPID  string `json:"container_pid"`
	Network       string `json:"network"`
	OVSPortID     string `json:"ovs_port_id"`
	Details       struct {
		Name, IP, Subnet, MAC, Gateway string
	} `json:"connection_details"`
}

// bare starts a container without a network, as scripts of 2015 did, and gives
// its id and its process as its host sees it.
func bare(t testing.TB, k int, name string) (id, pid string) {
	t.Helper()
	must(t, k, "docker", "run", "-d", "--init", "--net", "none", "--name", name, lab.Image, "sleep", "100000")
	t.Cleanup(func() { try(t, k, "docker", "rm", "-f", name) })
	fields := strings.Fields(must(t, k, "docker", "inspect", "-f", "{{.Id}} {{.State.Pid}}", name))
	return fields[0], fields[1]
}

// Promise: a script of 2015 makes a network, connects containers by their
// process ids on two hosts, and they reach each other; what Powerstrip's adapter
// makes of a creation is on the network, too; DELETE leaves nothing.
func TestScriptOf2015(t *testing.T) {
	before := []([]string){nil, traces(t, 1), traces(t, 2)}
	restartAgent(t, 1, "SOCKETPLANE_API_LEGACY=true")
	t.Cleanup(func() { restartAgent(t, 1) })
	status, body := curl(t, 1, onTCP, "-X", "POST", legacyV0+"/networks", "-d", `{ "id": "old", "subnet": "10.61.0.9/16" }`)
	if status != "200" || !strings.HasPrefix(body, `{"id":"old","subnet":"10.61.0.0/16","gateway":"10.61.0.1","vlan":`) {
		t.Fatalf("create a network: %s %s", status, body)
	}
	if status, again := curl(t, 2, onSocket, legacyV0+"/networks/old"); status != "200" || again != body {
		t.Errorf("the network on h2: %s %s", status, again)
	}

	ids := []string{"", "", ""}
	conns := make([]connection, 3)
	for k, way := range []string{"", onTCP, onSocket} {
		if k == 0 {
			continue
		}
		name := fmt.Sprintf("old-%d", k)
		id, pid := bare(t, k, name)
		ids[k] = id
		if k == 1 { // one of them as a text
			pid = `"` + pid + `"`
		}
		post := func() {
			status, body := curl(t, k, way, "-X", "POST", legacyV0+"/connections", "-d",
				fmt.Sprintf(`{ "container_id": "%s", "container_name": "/%s", "container_pid": %s, "network": "old" }`, id, name, pid))
			if status != "200" {
				t.Fatalf("connect on h%d: %s %s", k, status, body)
			}
			decode(t, body, &conns[k])
		}
		post()
		first := conns[k]
		if post(); conns[k] != first {
			t.Errorf("the same again gives %+v, was %+v", conns[k], first)
		}
		c := conns[k]
		if c.ContainerID != id || c.ContainerName != "/"+name || c.ContainerPID != strings.Trim(pid, `"`) || c.OVSPortID == "" ||
			c.Details.Name != c.OVSPortID || c.Details.Subnet != "/16" || c.Details.Gateway != "10.61.0.1" || c.Details.MAC == "" {
			t.Errorf("on h%d it says %+v", k, c)
		}
		status, body := curl(t, k, way, legacyV0+"/connections/"+id)
		var shown connection
		decode(t, body, &shown)
		if status != "200" || shown != c {
			t.Errorf("shown on h%d: %s %+v, want %+v", k, status, shown, c)
		}
		all := map[string]connection{}
		_, body = curl(t, k, way, legacyV0+"/connections")
		if decode(t, body, &all); all[id] != c {
			t.Errorf("all of h%d: %s", k, body)
		}
	}
	for k := 1; k <= 2; k++ {
		c := container{host: k, name: fmt.Sprintf("old-%d", k)}
		eventually(t, "reach the other", func() error { return c.pings(t, conns[3-k].Details.IP) })
		if shown := c.exec(t, "ip", "addr", "show", "eth0").stdout; !strings.Contains(shown, conns[k].Details.IP+"/16") {
			t.Errorf("eth0 on h%d:\n%s", k, shown)
		}
	}
	// What it attached is shown by the product's own command, too.
	if e := info(t, 1, "old-1"); e.IP != conns[1].Details.IP {
		t.Errorf("info says %+v", e)
	}

	hooksOf2015(t)
	refusedHookOf2015(t)

	for k, way := range []string{"", onTCP, onSocket} {
		if k == 0 {
			continue
		}
		if status, body := curl(t, k, way, "-X", "DELETE", legacyV0+"/connections/"+ids[k]); status != "200" || body != "" {
			t.Errorf("disconnect on h%d: %s %s", k, status, body)
		}
		if status, body := curl(t, k, way, "-X", "DELETE", legacyV0+"/connections/"+ids[k]); status != "404" {
			t.Errorf("disconnect again on h%d: %s %s", k, status, body)
		}
		must(t, k, "docker", "rm", "-f", fmt.Sprintf("old-%d", k))
	}
	eventually(t, "delete the network", func() error {
		if status, body := curl(t, 1, onTCP, "-X", "DELETE", legacyV0+"/networks/old"); status != "200" {
			return fmt.Errorf("%s %s", status, body)
		}
		return nil
	})
	for k := 1; k <= 2; k++ {
		leavesNothing(t, k, before[k])
	}
}

// hooksOf2015 has Powerstrip's adapter of host 1 change the creation of a
// container, on both of its paths and both sockets, and Docker start what came
// out of it.
func hooksOf2015(t *testing.T) {
	create, err := json.Marshal(map[string]any{
		"Image": lab.Image, "Cmd": []string{"sleep", "100000"}, "Env": []string{"SP_NETWORK=old"}, "HostConfig": map[string]any{"Init": true},
	})
	if err != nil {
		t.Fatal(err)
	}
	const target = "/containers/create?name=old-hook" // of whatever version of the API
	hook, err := json.Marshal(map[string]any{
		"PowerstripProtocolVersion": 1, "Type": "pre-hook",
		"ClientRequest": map[string]any{"Method": "POST", "Request": target, "Body": string(create)},
	})
	if err != nil {
		t.Fatal(err)
	}
	var first string
	for _, path := range []string{"/adapter", "/v0.1/adapter"} {
		for _, way := range []string{onSocket, onTCP} {
			status, said := curl(t, 1, way, "-X", "POST", "http://localhost:6675"+path, "-d", string(hook))
			var answer struct {
				PowerstripProtocolVersion int
				ModifiedClientRequest     struct{ Method, Request, Body string }
			}
			if decode(t, said, &answer); status != "200" || answer.ModifiedClientRequest.Request != target || !strings.Contains(answer.ModifiedClientRequest.Body, `"NetworkMode":"old"`) {
				t.Fatalf("%s %s: %s %s", way, path, status, said)
			}
			if first == "" {
				first = answer.ModifiedClientRequest.Body
			}
			if answer.ModifiedClientRequest.Body != first {
				t.Errorf("%s %s: %s, want %s", way, path, answer.ModifiedClientRequest.Body, first)
			}
		}
	}
	resp, err := overSocket(t, 1, "/run/docker.sock").Post("http://docker"+target, "application/json", strings.NewReader(first))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if said, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusCreated {
		t.Fatalf("create: %s %s %v", resp.Status, said, err)
	}
	t.Cleanup(func() { removeByDocker(t, 1, "old-hook") })
	must(t, 1, "docker", "start", "old-hook")
	c := container{host: 1, name: "old-hook", ip: dockersIP(t, 1, "old-hook", "old")}
	if shown := c.exec(t, "ip", "-4", "addr", "show", "eth0").stdout; c.ip == "" || !strings.Contains(shown, "inet "+c.ip+"/16") {
		t.Errorf("Docker says %q, and it has:\n%s", c.ip, shown)
	}
	described(t, c)
	far := container{host: 2, name: "old-2"}
	eventually(t, "reach it across hosts", func() error { return far.pings(t, c.ip) })
	removeByDocker(t, 1, c.name)
}

// Promise: what cannot be is refused with an honest status and one line, web
// pages are refused on TCP, and nothing comes of it.
func TestHostileScripts(t *testing.T) {
	restartAgent(t, 1, "SOCKETPLANE_API_LEGACY=true")
	t.Cleanup(func() { restartAgent(t, 1) })
	makeNetwork(t, 1, "oldbad", "10.62.0.0/24")
	id, pid := bare(t, 1, "oldbad-1")
	c := runContainer(t, 1, "oldbad", "oldbad-2")
	other := info(t, 1, c.name).ContainerID
	before := traces(t, 1)
	connect := func(id, pid, network string) []string {
		body, err := json.Marshal(map[string]string{"container_id": id, "container_pid": pid, "network": network})
		if err != nil {
			t.Fatal(err)
		}
		return []string{"-X", "POST", legacyV0 + "/connections", "-d", string(body)}
	}
	for _, tt := range []struct {
		name   string
		args   []string
		status string
	}{
		{"unknown network", connect(id, pid, "nope"), "404"},
		{"no such process", connect(id, "4194303", "oldbad"), "400"},
		{"the host's first process", connect(id, "1", "oldbad"), "400"},
		{"no process id", connect(id, "", "oldbad"), "400"},
		{"a path for one", connect(id, "../1", "oldbad"), "400"},
		{"an endless one", connect(id, "99999999999999999999", "oldbad"), "400"},
		{"a path for an id", connect("../x", pid, "oldbad"), "400"},
		{"a path for a network", connect(id, pid, "../x"), "400"},
		{"somebody else's", connect(other, pid, "oldbad"), "409"},
		{"end somebody else's", []string{"-X", "DELETE", legacyV0 + "/connections/" + other}, "409"},
		{"no JSON", []string{"-X", "POST", legacyV0 + "/connections", "-d", "{"}, "400"},
		{"overlap", []string{"-X", "POST", legacyV0 + "/networks", "-d", `{"id":"x","subnet":"10.62.0.1/16"}`}, "409"},
		{"no subnet at all", []string{"-X", "POST", legacyV0 + "/networks", "-d", `{"id":"x","subnet":"x"}`}, "400"},
		{"in use", []string{"-X", "DELETE", legacyV0 + "/networks/oldbad"}, "409"},
		{"unknown", []string{legacyV0 + "/networks/nope"}, "404"},
		{"cluster", []string{"-X", "POST", legacyV0 + "/cluster/join?address=198.18.0.2"}, "409"},
		{"a web page", []string{"-H", "Origin: http://example.com", "-X", "POST", legacyV0 + "/networks", "-d", `{"id":"x"}`}, "403"},
		{"another name for this host", []string{"-H", "Host: example.com:6675", legacyV0 + "/networks"}, "403"},
		{"the product's own API", []string{"http://localhost:6675/v1/networks"}, "404"},
	} {
		status, body := curl(t, 1, onTCP, tt.args...)
		if status != tt.status || strings.Count(strings.TrimSpace(body), "\n") != 0 || strings.TrimSpace(body) == "" {
			t.Errorf("%s: %s %q, want %s and one line", tt.name, status, body, tt.status)
		}
	}
	leavesNothing(t, 1, before)
}

// refusedHookOf2015 has the adapter refuse a creation, goes on as Powerstrip
// does, which hangs unless there is a request, and looks at what dockerd tells
// the user.
func refusedHookOf2015(t *testing.T) {
	create, err := json.Marshal(map[string]any{"Image": lab.Image, "Env": []string{"SP_NETWORK=none-such"}})
	if err != nil {
		t.Fatal(err)
	}
	hook, err := json.Marshal(map[string]any{
		"PowerstripProtocolVersion": 1, "Type": "pre-hook",
		"ClientRequest": map[string]any{"Method": "POST", "Request": "/containers/create?name=old-refused", "Body": string(create)},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, said := curl(t, 1, onSocket, "-X", "POST", "http://localhost:6675/adapter", "-d", string(hook))
	var answer struct {
		ModifiedClientRequest struct{ Method, Request, Body string }
	}
	decode(t, said, &answer)
	m := answer.ModifiedClientRequest
	status, said := curl(t, 1, "--unix-socket /run/docker.sock", "-X", m.Method, "-H", "Content-Type: application/json", "-d", m.Body, "http://docker"+m.Request)
	if status != "400" || !strings.Contains(said, `socketplane: SP_NETWORK: network \"none-such\" does not exist`) {
		t.Errorf("dockerd answers %s %s to %s %s", status, said, m.Method, m.Request)
	}
}
