package cli

import (
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/api"
)

// The status says how Consul's own commands find the Consul that the agent runs.
func TestStatusSaysConsulsAddress(t *testing.T) {
	for store, want := range map[string]string{
		"consul unix:///var/lib/socketplane/consul/http.sock": "Consul CLI:     CONSUL_HTTP_ADDR=unix:///var/lib/socketplane/consul/http.sock\n",
		"consul http://127.0.0.1:8500":                        "",
		"embedded":                                            "",
		"":                                                    "",
	} {
		var b strings.Builder
		if err := writeStatus(&b, api.Status{Store: store}); err != nil {
			t.Fatal(err)
		}
		if got := b.String(); want == "" && strings.Contains(got, "CONSUL_HTTP_ADDR") || !strings.Contains(got, want) {
			t.Errorf("store %q:\n%s", store, got)
		}
	}
}
