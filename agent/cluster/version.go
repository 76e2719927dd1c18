package cluster

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
)

// release is a version in the format of scripts/version.sh, in chronological order. The
// zero release is a version that cannot be parsed. Builds that predate the format have
// only a commit, and count as older than all others.
type release [5]uint64 // major, minor, patch, candidate, commits since or the commit's date

// finalRelease is the candidate number of a version that is not a candidate.
const finalRelease = 1 << 32

var versionPattern = regexp.MustCompile(`^v([0-9]{1,9})\.([0-9]{1,9})\.([0-9]{1,9})(?:-rc\.([0-9]{1,9}))?(?:-([0-9]{1,9})-g[0-9a-f]+|-([0-9]{14})-[0-9a-f]+)?(?:-dirty|\+dirty)?$`)

func parseVersion(version string) release {
	m := versionPattern.FindStringSubmatch(version)
	if m == nil {
		return release{}
	}
	n := func(s string) uint64 {
		v, _ := strconv.ParseUint(s, 10, 64) // the pattern limits the length, so only an absent number fails, which counts as 0
		return v
	}
	r := release{n(m[1]), n(m[2]), n(m[3]), finalRelease, max(n(m[5]), n(m[6]))}
	if m[4] != "" {
		r[3] = n(m[4])
	}
	return r
}

func (r release) compare(other release) int { return slices.CompareFunc(r[:], other[:], cmp.Compare) }

// Behind returns the IDs of the hosts that run an older release than the newest one of a
// live host. A host that lacks a capability of a live host is behind too: capabilities
// show the older of two versions that cannot be compared.
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
