package systemtest

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

// Promise: whoever may write to the socket gets an answer to whatever is sent:
// a 4xx with a code and a sentence for what cannot be, and nothing comes of it.
func TestHostileRequests(t *testing.T) {
	makeNetwork(t, 1, "hostile", "10.78.0.0/24")
	ns := namespace(t, 1, "hostile")
	long := strings.Repeat("x", 65)
	type request struct{ name, method, path, body, code string }
	cases := []request{
		{"unknown path", "GET", "/v1/frobnicate", "", "not_found"},
		{"no path", "GET", "/", "", "not_found"},
		{"unknown version", "GET", "/v9/networks", "", "not_found"},
		{"unknown method", "PATCH", "/v1/networks", "", "not_found"},
		{"method of another path", "PUT", "/v1/networks/hostile", `{"id":"x"}`, "not_found"},
		{"made-up method", "FROB", "/v1/networks", "", "not_found"},
		{"delete of all networks", "DELETE", "/v1/networks", "", "not_found"},
		{"delete of no network", "DELETE", "/v1/networks/", "", "invalid not_found"},

		{"no body", "POST", "/v1/networks", "", "invalid"},
		{"not JSON", "POST", "/v1/networks", "id=x", "invalid"},
		{"cut short", "POST", "/v1/networks", `{"id":"x"`, "invalid"},
		{"unknown field", "POST", "/v1/networks", `{"id":"x","colour":"red"}`, "invalid"},
		{"a field twice removed", "POST", "/v1/networks", `{"id":"x","subnet":{"cidr":"10.1.0.0/16"}}`, "invalid"},
		{"garbage behind", "POST", "/v1/networks", `{"id":"x"} and more`, "invalid"},
		{"two values", "POST", "/v1/networks", `{"id":"x"}{"id":"y"}`, "invalid"},
		{"an array", "POST", "/v1/networks", `[]`, "invalid"},
		{"a number", "POST", "/v1/networks", `{"id":7}`, "invalid"},
		{"null", "POST", "/v1/networks", `null`, "invalid"},
		{"nothing in it", "POST", "/v1/networks", `{}`, "invalid"},
		{"deeply nested", "POST", "/v1/networks", strings.Repeat("[", 50000), "invalid"},
		{"more than the limit", "POST", "/v1/networks", `{"id":"` + strings.Repeat("x", 70<<10) + `"}`, "invalid"},
		{"more than the limit behind", "POST", "/v1/networks", `{"id":"x"}` + strings.Repeat(" ", 70<<10), "invalid"},
		{"much more than the limit", "POST", "/v1/attach", strings.Repeat("x", 4<<20), "invalid"},

		{"a NUL in a name", "POST", "/v1/networks", `{"id":"a\u0000b","subnet":"10.79.0.0/24"}`, "invalid"},
		{"a NUL in a path", "GET", "/v1/networks/a%00b", "", "invalid"},
		{"a NUL in a deletion", "DELETE", "/v1/networks/hostile%00", "", "invalid"},
		{"a raw NUL", "POST", "/v1/networks", "{\"id\":\"a\x00b\"}", "invalid"},
		{"an escaped path", "DELETE", "/v1/networks/..%2f..%2fhosts", "", "invalid"},
		{"an escaped slash", "GET", "/v1/endpoints/a%2fb", "", "invalid"},
		{"a lone surrogate", "POST", "/v1/networks", `{"id":"\ud800"}`, "invalid"},
		{"65 characters", "POST", "/v1/networks", `{"id":"` + long + `"}`, "invalid"},
		{"65 characters in a path", "DELETE", "/v1/networks/" + long, "", "invalid"},
		{"an absurd id", "GET", "/v1/endpoints/" + strings.Repeat("x", 4000), "", "invalid"},
		{"an absurd id to detach", "POST", "/v1/endpoints/" + strings.Repeat("x", 4000) + "/detach", "", "invalid"},
		{"an absurd id to release", "DELETE", "/v1/endpoints/a;b", "", "invalid"},
		{"Docker's name", "POST", "/v1/networks", `{"id":"host","subnet":"10.79.0.0/24"}`, "invalid"},
		{"a NUL in a subnet", "POST", "/v1/networks", `{"id":"x","subnet":"10.79.0.0/24\u0000"}`, "invalid"},
		{"a zone", "POST", "/v1/networks", `{"id":"x","subnet":"fe80::%eth0/64"}`, "invalid"},

		{"attach without an id", "POST", "/v1/attach", `{"network":"hostile","netns":"` + ns + `"}`, "invalid"},
		{"attach without a namespace", "POST", "/v1/attach", `{"id":"x","network":"hostile"}`, "invalid"},
		{"attach by a relative path", "POST", "/v1/attach", `{"id":"x","network":"hostile","netns":"../` + ns + `"}`, "invalid"},
		{"attach by a path with a NUL", "POST", "/v1/attach", `{"id":"x","network":"hostile","netns":"` + ns + `\u0000"}`, "invalid"},
		{"attach by an endless path", "POST", "/v1/attach", `{"id":"x","network":"hostile","netns":"/` + strings.Repeat("x", 5000) + `"}`, "invalid"},
		{"attach by a name that is too long", "POST", "/v1/attach", `{"id":"x","network":"hostile","netns":"/` + strings.Repeat("x", 300) + `"}`, "invalid"},
		{"attach through a file", "POST", "/v1/attach", `{"id":"x","network":"hostile","netns":"/etc/passwd/net"}`, "invalid"},
		{"attach of what was not reserved", "POST", "/v1/attach", `{"id":"x","netns":"` + ns + `"}`, "not_found"},
		{"attach with a bad source", "POST", "/v1/attach", `{"id":"x","network":"hostile","netns":"` + ns + `","source":"moon"}`, "invalid"},
		{"attach with a bad name", "POST", "/v1/attach", `{"id":"x","container_name":"a\nb","network":"hostile","netns":"` + ns + `"}`, "invalid"},
		{"attach with an endless name", "POST", "/v1/attach", `{"id":"x","container_name":"` + strings.Repeat("x", 300) + `","network":"hostile","netns":"` + ns + `"}`, "invalid"},
		{"attach as lo", "POST", "/v1/attach", `{"id":"x","network":"hostile","netns":"` + ns + `","ifname":"lo"}`, "invalid"},
		{"attach as a path", "POST", "/v1/attach", `{"id":"x","network":"hostile","netns":"` + ns + `","ifname":"../x"}`, "invalid"},
		{"attach into the host", "POST", "/v1/attach", `{"id":"x","network":"hostile","netns":"/proc/1/ns/net"}`, "invalid"},
		{"reserve on nothing", "POST", "/v1/endpoints", `{"id":"x","network":"nope"}`, "not_found"},
		{"reserve an address with a mask", "POST", "/v1/endpoints", `{"id":"x","network":"hostile","ip":"10.78.0.9/24"}`, "invalid"},
		{"reserve the gateway", "POST", "/v1/endpoints", `{"id":"x","network":"hostile","ip":"10.78.0.1"}`, "conflict"},
	}
	before := traces(t, 1)
	client := overSocket(t, 1, "/run/socketplane/socketplane.sock")
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			req, err := http.NewRequest(c.method, "http://agent"+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
			if err != nil {
				t.Fatal(err)
			}
			var answer struct {
				Error struct{ Code, Message string }
			}
			if err := json.Unmarshal(data, &answer); err != nil {
				t.Fatalf("HTTP status %d, and the answer is not JSON: %v: %.200q", resp.StatusCode, err, data)
			}
			if resp.StatusCode < 400 || resp.StatusCode > 499 || !strings.Contains(c.code, answer.Error.Code) || answer.Error.Code == "" {
				t.Errorf("HTTP status %d, code %q, want 4xx and %q: %q", resp.StatusCode, answer.Error.Code, c.code, answer.Error.Message)
			}
			if answer.Error.Message == "" || len(answer.Error.Message) > 500 || strings.ContainsAny(answer.Error.Message, "\n\x00") {
				t.Errorf("message is %.600q", answer.Error.Message)
			}
		})
	}
	// One look behind all of them: what was left would still be there.
	leavesNothing(t, 1, before)
	healthy(t, 1)
}
