package agent

import (
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/link"
)

// An interface whose MAC somebody else has set is named by status and info, with what
// to do, and no more once it is right or gone.
func TestStatusSaysForeignMAC(t *testing.T) {
	h := newTestHost(t)
	wants := func(parts ...string) {
		t.Helper()
		h.converge()
		st, err := h.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		e, err := h.Endpoint(t.Context(), "c1")
		if err != nil && len(parts) > 0 {
			t.Fatal(err)
		}
		for _, text := range []string{strings.Join(st.Problems, "\n"), e.Problem} {
			if (len(parts) == 0) != (text == "") {
				t.Errorf("said: %q", text)
			}
			for _, p := range parts {
				if !strings.Contains(text, p) {
					t.Errorf("%q lacks %q", text, p)
				}
			}
		}
	}
	for source, remedy := range map[api.Source]string{api.SourceCNI: "MAC= in CNI_ARGS", api.SourceConnect: "ip link set eth0 address 02:42:0a:06:00:02"} {
		_, err := h.Attach(t.Context(), api.AttachRequest{ID: "c1", ContainerName: "web", Network: "foo", IP: "10.6.0.2", NetNS: "/ns/c1", Source: source})
		if err != nil {
			t.Fatal(err)
		}
		wants()
		host := link.HostName("c1")
		h.links.SetPeerMAC(host, "02:00:00:00:00:7a")
		wants(`interface "eth0" of "web" on network "foo"`, "02:00:00:00:00:7a", "expects 02:42:0a:06:00:02", remedy)
		h.links.SetPeerMAC(host, "02:42:0a:06:00:02")
		wants()
		h.links.SetPeerMAC(host, "02:00:00:00:00:7b")
		wants("02:00:00:00:00:7b")
		if err := h.Release(t.Context(), "c1"); err != nil {
			t.Fatal(err)
		}
		if st, err := h.Status(t.Context()); err != nil || len(st.Problems) > 0 {
			t.Errorf("after its end: %q, %v", st.Problems, err)
		}
		wants()
	}
}

// A CNI chain's end is not waited for by the slow timer.
func TestMACIsLookedAtAfterChain(t *testing.T) {
	h := newTestHost(t)
	if _, err := h.Attach(t.Context(), api.AttachRequest{ID: "c1", Network: "foo", NetNS: "/ns/c1", Source: api.SourceCNI}); err != nil {
		t.Fatal(err)
	}
	h.links.SetPeerMAC(link.HostName("c1"), "02:00:00:00:00:7a")
	eventually(t, "status says so", func() bool {
		st, err := h.Status(t.Context())
		return err == nil && strings.Contains(strings.Join(st.Problems, ""), "02:00:00:00:00:7a")
	})
}
