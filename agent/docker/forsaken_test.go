package docker

import (
	"testing"

	"github.com/moby/moby/api/types/container"
)

// TestForsaken: the words are those that Docker 20.10 was seen to keep.
func TestForsaken(t *testing.T) {
	for _, tt := range []struct {
		policy  container.RestartPolicyMode
		running bool
		says    string
		want    bool
	}{
		{"always", false, `plugin "socketplane" not found`, true},
		{"unless-stopped", false, `plugin "socketplane" not found`, true},
		{"always", false, `failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: error during container init: error running hook #0: error running hook: exit status 1, stdout: , stderr: socketplane: the agent cannot be reached on /run/socketplane/socketplane.sock; is it running? start it with: socketplane agent start (connect: no such file or directory): unknown`, true},
		{"always", false, `failed to create endpoint a on network foo: NetworkDriver.CreateEndpoint: Post "http://%2Frun%2Fdocker%2Fplugins%2Fsocketplane.sock/NetworkDriver.CreateEndpoint": dial unix /run/docker/plugins/socketplane.sock: connect: connection refused`, true},
		{"always", true, `plugin "socketplane" not found`, false},
		{"no", false, `plugin "socketplane" not found`, false},
		{"on-failure", false, `plugin "socketplane" not found`, false},
		{"always", false, "", false}, // stopped by hand
		{"always", false, `network "foo4" is full`, false},
		{"always", false, `driver failed programming external connectivity: port 0.0.0.0:80/tcp of this host is taken`, false},
	} {
		c := container.InspectResponse{
			HostConfig: &container.HostConfig{RestartPolicy: container.RestartPolicy{Name: tt.policy}},
			State:      &container.State{Running: tt.running, Error: tt.says},
		}
		if got := forsaken(c); got != tt.want {
			t.Errorf("%s, running %v, %q: %v", tt.policy, tt.running, tt.says, got)
		}
	}
	if forsaken(container.InspectResponse{}) {
		t.Error("a container of which nothing is known")
	}
}
