package docker

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/socketplane/socketplane/agent/api"
)

// TestClusterName: whatever Docker calls a network has a name in the cluster.
func TestClusterName(t *testing.T) {
	for docker, want := range map[string]string{
		"web": "web", "shop_back": "shop_back", "a.b-c": "a.b-c", "default": "default", "socketplane": "socketplane",
		"my net": "my-net-b973a0eb", "a/b": "a-b-c14cddc0", "büro": "b-ro-2616f09c", "日本": "net-", "-x": "x-", "a..b": "a-b-", "_": "net-",
		strings.Repeat("x", 130): strings.Repeat("x", 55) + "-",
	} {
		got := ClusterName(docker)
		if prefix := strings.HasSuffix(want, "-"); prefix && !strings.HasPrefix(got, want) || !prefix && got != want {
			t.Errorf("%q is %q, want %q", docker, got, want)
		}
	}
	if a, b := ClusterName("a b"), ClusterName("a/b"); a == b {
		t.Errorf("two names became one: %s", a)
	}
}

func FuzzClusterName(f *testing.F) {
	for _, name := range []string{"web", "my net", "", "-", "..", "\xff", strings.Repeat("é", 200)} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		got := ClusterName(name)
		if err := api.CheckNetworkRef(got); err != nil || !utf8.ValidString(got) {
			t.Errorf("%q is %q: %v", name, got, err)
		}
		if again := ClusterName(got); again != got {
			t.Errorf("%q is %q, and that is %q", name, got, again)
		}
	})
}
