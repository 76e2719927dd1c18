package cluster

import (
	"strings"
	"testing"
)

func TestLacksWithout(t *testing.T) {
	for _, tt := range []struct {
		what, seats, voters string
		want                string // begins so; empty: nothing is lacking
	}{
		{"alone", "as", "a", ""},
		{"a client is left, and no server", "as< b", "a", "no other host is a server"},
		{"it starts again just now", "as< b-", "a", "no other host is a server yet (away: b)"},
		{"it has been promoted", "as< bs", "a b", ""},
		{"it is one, and does not vote yet", "as< bs", "a", "no other host is a server"},
		{"three servers", "as< bs cs", "a b c", ""},
		{"of two others one is away", "as< bs cs-", "a b c", "only 1 of 2 other servers are alive (away: c)"},
		{"a client has replaced it", "as< bs cs- ds", "a b c d", ""},
		{"a client is away", "as< bs c-", "a b", ""},
		{"the other leaves, and is gone but for its seat", "as< bs!<", "a b", ""},
		{"the other leaves, too", "as< bs<", "a b", ""},
		{"it goes, and a client stays", "as< bs!< c", "a c", ""},
		{"one leaves and has a vote still", "as< bs!< cs", "a b c", "only 1 of 2"},
		{"a client died after it left", "as< b!-", "a", ""},
		{"one that has just come has no record", "as< b!", "a", "no other host is a server"},
	} {
		var quorum []raftServer
		for _, id := range strings.Fields(tt.voters) {
			quorum = append(quorum, raftServer{ID: id, Voter: true})
		}
		got := lacksWithout("a", seatsOf(tt.seats), quorum)
		if !strings.HasPrefix(got, tt.want) || tt.want == "" && got != "" {
			t.Errorf("%s: %q, want %q", tt.what, got, tt.want)
		}
	}
}
