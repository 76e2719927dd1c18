package cli

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/socketplane/socketplane/agent/api"
)

func mapping(proto, ip string, host, container uint16) api.PortMapping {
	p := api.PortMapping{Proto: proto, HostPort: host, ContainerPort: container}
	if ip != "" {
		p.HostIP = netip.MustParseAddr(ip)
	}
	return p
}

func TestParsePublish(t *testing.T) {
	for spec, want := range map[string][]api.PortMapping{
		"80":                                    {mapping("tcp", "", 0, 80)},
		"0:80":                                  {mapping("tcp", "", 0, 80)},
		":80":                                   {mapping("tcp", "", 0, 80)},
		"53/udp":                                {mapping("udp", "", 0, 53)},
		"8080:80":                               {mapping("tcp", "", 8080, 80)},
		"8080:80/UDP":                           {mapping("udp", "", 8080, 80)},
		"127.0.0.1:8080:80/udp":                 {mapping("udp", "127.0.0.1", 8080, 80)},
		"127.0.0.1::80":                         {mapping("tcp", "127.0.0.1", 0, 80)},
		"0.0.0.0:8080:80":                       {mapping("tcp", "0.0.0.0", 8080, 80)},
		"8000-8001:9000-9001":                   {mapping("tcp", "", 8000, 9000), mapping("tcp", "", 8001, 9001)},
		"127.0.0.1::80-81":                      {mapping("tcp", "127.0.0.1", 0, 80), mapping("tcp", "127.0.0.1", 0, 81)},
		"target=80,published=8080":              {mapping("tcp", "", 8080, 80)},
		"protocol=udp,target=53,mode=host":      {mapping("udp", "", 0, 53)},
		"published=1-2,target=3-4,protocol=tcp": {mapping("tcp", "", 1, 3), mapping("tcp", "", 2, 4)},
	} {
		got, err := parsePublish(spec)
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); err != nil || diff != "" {
			t.Errorf("%q: %v %s", spec, err, diff)
		}
	}
}

func TestWithExposed(t *testing.T) {
	got := withExposed(
		[]api.PortMapping{mapping("tcp", "", 8080, 80)},
		[]api.PortMapping{mapping("tcp", "", 0, 80), mapping("udp", "", 0, 80), mapping("tcp", "", 0, 443)})
	want := []api.PortMapping{mapping("tcp", "", 8080, 80), mapping("udp", "", 0, 80), mapping("tcp", "", 0, 443)}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if text := publishedText(want); text != "0.0.0.0:8080->80/tcp, 80/udp, 443/tcp" {
		t.Error(text)
	}
}

func FuzzParsePublish(f *testing.F) {
	for _, s := range []string{"80", "8080:80/udp", "127.0.0.1::80", "1-65535", "target=80,published=1-3", "[::1]:80:80", "a:b:c:d", "%", "=,=", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		ports, err := parsePublish(spec)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r\x00\x1b") {
				t.Errorf("%q: %q", spec, err)
			}
			return
		}
		if len(ports) == 0 || api.CheckPorts(ports) != nil {
			t.Errorf("%q gave %v", spec, ports)
		}
	})
}
