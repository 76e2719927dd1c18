package docker

import (
	"testing"

	"github.com/socketplane/socketplane/agent/api"
)

// TestOurNetwork: the Docker network of a network is the one that stands for it,
// whatever its name; Docker's own of the same name is none.
func TestOurNetwork(t *testing.T) {
	ours := func(name, network string) Network {
		n := Network{Name: name, Driver: DriverName}
		if network != "" {
			n.Options = map[string]string{OptionNetwork: network}
		}
		return n
	}
	bridge := Network{Name: "web", Driver: "bridge"}
	for name, tt := range map[string]struct {
		list    []Network
		network string
		found   string
		code    api.Code
	}{
		"none yet":              {nil, "web", "", ""},
		"ours":                  {[]Network{ours("web", "web")}, "web", "web", ""},
		"a user's":              {[]Network{ours("web", "")}, "web", "web", ""},
		"the default one":       {[]Network{ours("socketplane", "default")}, "default", "socketplane", ""},
		"by another name":       {[]Network{ours("mine", "web")}, "web", "mine", ""},
		"and Docker's own":      {[]Network{bridge, ours("mine", "web")}, "web", "mine", ""},
		"Docker's own only":     {[]Network{bridge}, "web", "", api.CodeConflict},
		"stands for another":    {[]Network{ours("web", "shop")}, "web", "", ""},
		"that for which it is":  {[]Network{ours("web", "shop")}, "shop", "web", ""},
		"named as ours, bridge": {[]Network{{Name: "socketplane", Driver: "bridge"}}, "default", "", api.CodeConflict},
	} {
		found, err := ourNetwork(tt.list, tt.network)
		if found != tt.found || (err != nil) != (tt.code != "") || err != nil && api.CodeOf(err) != tt.code {
			t.Errorf("%s: %q, %v", name, found, err)
		}
	}
}
