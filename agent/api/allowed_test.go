package api

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseAllowed(t *testing.T) {
	got, err := ParseAllowed([]string{"10.6.0.200", "10.6.0.192/28", "10.6.0.200/32", "10.6.0.9"})
	if diff := cmp.Diff([]string{"10.6.0.9", "10.6.0.192/28", "10.6.0.200"}, AllowedText(got)); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if got, err := ParseAllowed(nil); len(got) != 0 || err != nil {
		t.Errorf("none: %v, %v", got, err)
	}
	for _, bad := range []string{
		"", " ", "x", "10.6.0", "10.6.0.200 ", "10.6.0.200/", "10.6.0.200/33", "10.6.0.200/-1", "10.6.0.200/24", "10.6.0.0/024", "010.6.0.200",
		"0.0.0.0", "0.0.0.0/0", "10.0.0.0/7", "127.0.0.1", "169.254.169.254", "169.0.0.0/8", "224.0.0.18", "255.255.255.255", "240.0.0.1",
		"168.63.129.16", "100.100.100.200", "100.100.100.0/24", "192.0.0.192",
		"::1", "fd00::/64", "::ffff:10.6.0.200", "fe80::1%eth0", "10.6.0.200,10.6.0.201", "10.6.0.200\nactions=normal", strings.Repeat("9", 1<<16),
	} {
		if got, err := ParseAllowed([]string{bad}); CodeOf(err) != CodeInvalid || len(err.Error()) > 500 {
			t.Errorf("%.40q: %v, %.600v", bad, got, err)
		}
	}
	if _, err := ParseAllowed(slices.Repeat([]string{"10.6.0.200"}, MaxAllowed+1)); CodeOf(err) != CodeInvalid {
		t.Errorf("too many: %v", err)
	}
}
