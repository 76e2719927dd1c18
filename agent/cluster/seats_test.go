package cluster

import (
	"strings"
	"testing"
)

// seatsOf reads hosts from words: a letter, then s for a server, - for one that
// has failed, ! for one without a record, < for one that leaves.
func seatsOf(words string) []seat {
	var all []seat
	for _, w := range strings.Fields(words) {
		all = append(all, seat{
			host: w[:1], node: w[:1], server: strings.Contains(w, "s"), alive: !strings.Contains(w, "-"),
			known: !strings.Contains(w, "!"), leaving: strings.Contains(w, "<"),
		})
	}
	return all
}

func TestNextTurn(t *testing.T) {
	for _, tt := range []struct {
		what, seats string
		want        turn
	}{
		{"one", "as", turn{}},
		{"the second stays a client", "as b", turn{}},
		{"a third comes", "as b c", turn{promote: "b"}},
		{"a third comes, next", "as bs c", turn{promote: "c"}},
		{"three", "as bs cs", turn{}},
		{"a fourth stays a client", "as bs cs d", turn{}},
		{"the order of words does not matter", "d c bs as", turn{promote: "c"}},
		{"a server is away for a while", "as bs- cs d", turn{}},
		{"a server is gone for good", "as bs-! cs d", turn{forget: "b"}},
		{"it was taken out", "as cs d", turn{promote: "d"}},
		{"a client is gone for good", "as bs cs d-!", turn{forget: "d"}},
		{"a client that has failed is not promoted", "as bs- c- d", turn{promote: "d"}},
		{"one that has just come has no record", "as bs c!", turn{promote: "c"}},
		{"the only server leaves", "as< b", turn{promote: "b"}},
		{"a server leaves", "as< bs cs d", turn{promote: "d"}},
		{"one that leaves is not promoted", "as b< c", turn{}},
		{"two are left of three", "as bs", turn{demote: "b"}},
		{"not while one is away", "as bs-", turn{}},
		{"not while one leaves", "as< bs cs", turn{}},
		{"four servers", "as bs cs ds", turn{demote: "d"}},
		{"nobody", "", turn{}},
	} {
		if got := nextTurn(seatsOf(tt.seats), "a"); got != tt.want {
			t.Errorf("%s (%s): %+v, want %+v", tt.what, tt.seats, got, tt.want)
		}
	}
	if got := nextTurn(seatsOf("as bs cs ds"), "d"); got.demote != "c" {
		t.Errorf("the leader is sent away: %+v", got)
	}
}
