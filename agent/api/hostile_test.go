package api

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
)

// post asks the handler and gives the status and the error's code.
func post(h http.Handler, method, path, body string) (int, Code, string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	var answer errorBody
	_ = json.Unmarshal(w.Body.Bytes(), &answer)
	return w.Code, answer.Error.Code, answer.Error.Message
}

func TestHostileBodies(t *testing.T) {
	fake := &fakeService{}
	h := NewHandler(fake, slog.New(slog.DiscardHandler))
	for name, body := range map[string]string{
		"empty": "", "no JSON": "x", "array": "[]", "number": "1", "string": `"x"`, "cut": `{"id":"a"`,
		"unknown field": `{"id":"a","x":1}`, "trailing value": `{"id":"a"}{}`, "trailing text": `{"id":"a"} x`,
		"wrong type": `{"id":1}`, "object for string": `{"id":{}}`, "too large": `{"id":"` + strings.Repeat("a", maxBody) + `"}`,
		"large and trailing": `{"id":"a"}` + strings.Repeat(" ", maxBody), "deep": strings.Repeat("[", 30000), "deep object": strings.Repeat(`{"id":`, 10000),
	} {
		for _, path := range []string{"/v1/networks", "/v1/endpoints", "/v1/attach"} {
			fake.asked = nil
			status, code, message := post(h, http.MethodPost, path, body)
			if status != http.StatusBadRequest || code != CodeInvalid || len(message) > 300 || strings.Contains(message, "\n") {
				t.Errorf("%s to %s: %d %s %.400q", name, path, status, code, message)
			}
			if fake.asked != nil {
				t.Errorf("%s to %s got through: %v", name, path, fake.asked)
			}
		}
	}
}

func TestHostilePaths(t *testing.T) {
	fake := &fakeService{}
	h := NewHandler(fake, slog.New(slog.DiscardHandler))
	for _, tt := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/", 404},
		{"GET", "/v2/status", 404},
		{"GET", "/v1/networks/", 404},
		{"PUT", "/v1/status", 404},
		{"DELETE", "/v1/networks", 404},
		{"GET", "/v1/networks/a%2Fb", 400},
		{"GET", "/v1/networks/a%00b", 400},
		{"GET", "/v1/networks/%2e%2e", 400},
		{"DELETE", "/v1/networks/a;b", 400},
		{"GET", "/v1/endpoints/" + strings.Repeat("a", 300), 400},
		{"DELETE", "/v1/endpoints/" + strings.Repeat("a", 65), 400},
		{"POST", "/v1/endpoints/%0a/detach", 400},
		{"DELETE", "/v1/endpoints/-x", 400},
		{"GET", "/v1/endpoints/a%20b", 400},
		{"GET", "/v1/endpoints?all=1", 400},
		{"GET", "/v1/endpoints?all=", 400},
		{"GET", "/v1/endpoints?all=true&all=true", 400},
		{"GET", "/v1/endpoints?all=%0a%00" + strings.Repeat("x", 5000), 400},
	} {
		fake.asked = nil
		status, _, message := post(h, tt.method, tt.path, "")
		if status != tt.status && status != http.StatusTemporaryRedirect && status != http.StatusMovedPermanently || strings.ContainsAny(message, "\n\x00") {
			t.Errorf("%s %s: %d %q", tt.method, tt.path, status, message)
		}
		if fake.asked != nil {
			t.Errorf("%s %s got through: %v", tt.method, tt.path, fake.asked)
		}
	}
}

func TestNames(t *testing.T) {
	for s, want := range map[string]bool{
		"a": true, "foo4": true, "A.b_c-d": true, strings.Repeat("a", 64): true, "0": true,
		"": false, strings.Repeat("a", 65): false, "../x": false, "a;b": false, "a\x00": false, "a\n": false, "-a": false, ".a": false, "a..b": false, "ä": false, "a b": false, "a/b": false,
	} {
		for what, check := range map[string]func(string) error{"ref": CheckNetworkRef, "name": CheckNetworkName, "id": CheckEndpointID} {
			if err := check(s); (err == nil) != want || err != nil && (CodeOf(err) != CodeInvalid || strings.Contains(err.Error(), "\n")) {
				t.Errorf("%s %q: %v", what, s, err)
			}
		}
	}
	for _, s := range []string{"bridge", "host", "none"} {
		if CheckNetworkName(s) == nil || CheckNetworkRef(s) != nil {
			t.Errorf("%q", s)
		}
	}
	for s, want := range map[string]bool{"": true, "web": true, strings.Repeat("a", 253): true, strings.Repeat("a", 254): false, "a b": false, "/a": false} {
		if (CheckContainerName(s) == nil) != want {
			t.Errorf("container %q", s)
		}
	}
	for s, want := range map[string]bool{"eth0": true, "e": true, strings.Repeat("a", 15): true, strings.Repeat("a", 16): false, "": false, ".": false, "..": false, "lo": false, "a/b": false, "a:b": false, "a%d": false} {
		if (CheckIfName(s) == nil) != want {
			t.Errorf("interface %q", s)
		}
	}
	if err := CheckIfName("lo"); err == nil || !strings.Contains(err.Error(), "loopback") {
		t.Errorf("interface lo: %v", err)
	}
	for s, want := range map[string]bool{"10.6.0.9": true, "": false, "x": false, "10.6.0.9/16": false, "::1": false, "::ffff:10.6.0.9": false, "10.6.0": false, "010.6.0.9": false} {
		if _, err := ParseIP(s); (err == nil) != want {
			t.Errorf("address %q: %v", s, err)
		}
	}
}

func TestCheckPorts(t *testing.T) {
	tcp := func(change func(*PortMapping)) []PortMapping {
		p := PortMapping{Proto: ProtoTCP, HostPort: 8080, ContainerPort: 80}
		change(&p)
		return []PortMapping{p}
	}
	ip := func(s string) func(*PortMapping) {
		return func(p *PortMapping) { p.HostIP = netip.MustParseAddr(s) }
	}
	for name, tt := range map[string]struct {
		ports []PortMapping
		says  string
	}{
		"none": {nil, ""}, "good": {somePorts, ""}, "all addresses": {tcp(ip("0.0.0.0")), ""}, "most": {make80(MaxPorts), ""},
		"too many":     {make80(MaxPorts + 1), "256 is the most"},
		"no protocol":  {tcp(func(p *PortMapping) { p.Proto = "" }), "neither tcp nor udp"},
		"sctp":         {tcp(func(p *PortMapping) { p.Proto = "sctp" }), "neither tcp nor udp"},
		"upper case":   {tcp(func(p *PortMapping) { p.Proto = "TCP" }), "neither tcp nor udp"},
		"an option":    {tcp(func(p *PortMapping) { p.Proto = "tcp -j ACCEPT\nCOMMIT" }), "neither tcp nor udp"},
		"long":         {tcp(func(p *PortMapping) { p.Proto = strings.Repeat("t", 5000) }), "..."},
		"no port":      {tcp(func(p *PortMapping) { p.ContainerPort = 0 }), "1 to 65535"},
		"IPv6":         {tcp(ip("::1")), "not IPv4"},
		"mapped":       {tcp(ip("::ffff:127.0.0.1")), "not IPv4"},
		"a zone":       {tcp(ip("fe80::1%" + strings.Repeat("z", 5000))), "..."},
		"multicast":    {tcp(ip("239.1.1.1")), "cannot be a host's"},
		"broadcast":    {tcp(ip("255.255.255.255")), "cannot be a host's"},
		"one is wrong": {append(tcp(ip("0.0.0.0")), PortMapping{Proto: "x", ContainerPort: 1}), "neither"},
	} {
		err := CheckPorts(tt.ports)
		if tt.says == "" && err != nil || tt.says != "" && (err == nil || CodeOf(err) != CodeInvalid || !strings.Contains(err.Error(), tt.says) || len(err.Error()) > 300 || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func make80(n int) []PortMapping {
	ports := make([]PortMapping, n)
	for i := range ports {
		ports[i] = PortMapping{Proto: ProtoTCP, ContainerPort: 80}
	}
	return ports
}

// TestHostilePorts: what is no port at all does not get to the service.
func TestHostilePorts(t *testing.T) {
	fake := &fakeService{}
	h := NewHandler(fake, slog.New(slog.DiscardHandler))
	for _, ports := range []string{
		`{}`, `"80"`, `[80]`, `[{"container_port":"80"}]`, `[{"container_port":70000}]`, `[{"container_port":-1}]`, `[{"container_port":1.5}]`,
		`[{"host_port":1e9}]`, `[{"host_ip":"x"}]`, `[{"host_ip":"1.2.3"}]`, `[{"host_ip":1}]`, `[{"proto":1}]`, `[{"proto":"tcp","x":1}]`,
	} {
		for _, path := range []string{"/v1/endpoints", "/v1/attach", "/v1/publish", "/v1/holds", "/v1/describe"} {
			fake.asked = nil
			status, code, message := post(h, http.MethodPost, path, `{"id":"a","ports":`+ports+`}`)
			if status != http.StatusBadRequest || code != CodeInvalid || message == "" || fake.asked != nil {
				t.Errorf("%s to %s: %d %s %q, %v", ports, path, status, code, message, fake.asked)
			}
		}
	}
}

func TestParseSubnet(t *testing.T) {
	for s, says := range map[string]string{
		"10.6.0.0/16": "", "10.0.0.0/8": "", "192.168.1.4/30": "", "172.16.0.0/12": "",
		"x": "10.6.0.0/16", "": "CIDR", "10.6.0.0": "CIDR", "10.6.0.0/33": "CIDR", "10.6.0.0/016": "CIDR", "fd00::/64": "not IPv4", "::ffff:10.6.0.0/112": "IPv4",
		"10.6.1.2/16": "did you mean 10.6.0.0/16?", "10.6.0.0/31": "/30", "10.6.0.1/32": "/30", "0.0.0.0/0": "/8", "8.0.0.0/7": "/8",
		"127.0.0.0/8": "unicast", "224.0.0.0/8": "unicast", "169.254.0.0/16": "unicast", "0.0.0.0/8": "unicast", "240.0.0.0/8": "unicast",
		strings.Repeat("1", 5000): "...",
	} {
		p, err := ParseSubnet(s)
		switch {
		case says == "" && (err != nil || p.String() != s):
			t.Errorf("%q: %v, %v", s, p, err)
		case says != "" && (err == nil || CodeOf(err) != CodeInvalid || !strings.Contains(err.Error(), says) || len(err.Error()) > 300):
			t.Errorf("%.50q: %v, %v", s, p, err)
		}
	}
}

func FuzzParseSubnet(f *testing.F) {
	for _, s := range []string{"10.6.0.0/16", "10.6.1.2/16", "::/0", "x", "", "255.255.255.255/32", "10.6.0.0/16%eth0", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParseSubnet(s)
		if err != nil {
			if CodeOf(err) != CodeInvalid || strings.ContainsAny(err.Error(), "\n\r\x00") {
				t.Errorf("%q: %q", s, err)
			}
			return
		}
		if !p.Addr().Is4() || p.Masked() != p || p.Bits() < 8 || p.Bits() > 30 {
			t.Errorf("%q gave %s", s, p)
		}
		if again, err := ParseSubnet(p.String()); err != nil || again != p {
			t.Errorf("%q: %v, %v", p, again, err)
		}
	})
}

func FuzzRequest(f *testing.F) {
	for _, s := range []string{`{"id":"a"}`, `{"id":"a","ports":[{"proto":"tcp","host_ip":"1.2.3.4","host_port":1,"container_port":2}]}`, `{"id":"a","netns":"/x","ip":"1"}`, `{}`, `null`, `[]`, `{"id":"a"}x`, `{"ID":"a","id":"b"}`, `{"network":"foo","ip":"10.6.0.2"}`, `{"id":"a","container_id":"b","container_name":"c"}`, "{\"id\":\"\xff\"}", `{"id":"\u0000"}`} {
		f.Add(s)
	}
	fake := &fakeService{}
	h := NewHandler(fake, slog.New(slog.DiscardHandler))
	f.Fuzz(func(t *testing.T, body string) {
		for _, path := range []string{"/v1/networks", "/v1/endpoints", "/v1/attach", "/v1/publish"} {
			status, code, message := post(h, http.MethodPost, path, body)
			if status != http.StatusOK && (status != http.StatusBadRequest || code != CodeInvalid || message == "" || strings.ContainsAny(message, "\n\r")) {
				t.Errorf("%q to %s: %d %s %q", body, path, status, code, message)
			}
		}
	})
}
