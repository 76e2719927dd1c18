package cluster

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
)

// release is a version as scripts/version.sh writes it, in the order of time. The zero
// release is a version that cannot be read: builds from before the scheme named only
// their commit, and count as older than all others.
type release [5]uint64 // major, minor, patch, candidate, commits since or the commit's date

// finalRelease is the candidate of a version that is none.
const finalRelease = 1 << 32

var versionPattern = regexp.MustCompile(`^v([0-9]{1,9})\.([0-9]{1,9})\.([0-9]{1,9})(?:-rc\.([0-9]{1,9}))?(?:-([0-9]{1,9})-g[0-9a-f]+|-([0-9]{14})-[0-9a-f]+)?(?:-dirty|\+dirty)?$`)

func parseVersion(version string) release {
	m := versionPattern.FindStringSubmatch(version)
	if m == nil {
		return release{}
	}
	n := func(s string) uint64 {
		v, _ := strconv.ParseUint(s, 10, 64) // the pattern takes short numbers only; none is 0
		return v
	}
	r := release{n(m[1]), n(m[2]), n(m[3]), finalRelease, max(n(m[5]), n(m[6]))}
	if m[4] != "" {
		r[3] = n(m[4])
	}
	return r
}

func (r release) compare(other release) int { return slices.CompareFunc(r[:], other[:], cmp.Compare) }

// Behind says which hosts run an older release than the newest that a living host runs.
// A host that lacks what a living one is capable of is behind too: of versions that
// cannot be compared, capabilities tell which is older.
func Behind(hosts []Host) map[string]bool {
	var newest release
	known := map[string]bool{}
	for _, h := range hosts {
		if !h.Alive {
			continue
		}
		if r := parseVersion(h.Version); r.compare(newest) > 0 {
			newest = r
		}
		for _, c := range h.Capabilities {
			known[c] = true
		}
	}
	behind := map[string]bool{}
	for _, h := range hosts {
		older := parseVersion(h.Version).compare(newest) < 0
		for c := range known {
			older = older || !h.Knows(c)
		}
		if older {
			behind[h.ID] = true
		}
	}
	return behind
}
