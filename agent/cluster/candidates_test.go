package cluster

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/socketplane/socketplane/agent/cluster/mdns"
)

func address(n int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, byte(n >> 8), byte(n)}) }

func announced(t testing.TB, token Token, addr netip.Addr) mdns.Announcement {
	t.Helper()
	a, err := announcement(token, "h", addr, 8301)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func searching(t testing.TB, token Token) *candidates {
	t.Helper()
	c, err := newCandidates(token, 8301)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAnnouncementsAreJudged(t *testing.T) {
	token := NewToken()
	good := announced(t, token, address(1))
	if told := strings.Join(good.Text, " "); strings.Contains(told, token.Secret()[4:20]) {
		t.Error("the token is told to everybody")
	}
	if again := announced(t, token, address(2)); again.Text[1] == good.Text[1] {
		t.Error("two hosts say the same: who listens learns that they are of one cluster")
	}
	for _, c := range []struct {
		name   string
		change func(*mdns.Announcement)
		want   verdict
	}{
		{"as it is", func(*mdns.Announcement) {}, sameToken},
		{"of another token", func(a *mdns.Announcement) { *a = announced(t, NewToken(), a.Addr) }, otherToken},
		{"repeated from another address", func(a *mdns.Announcement) { a.Addr = address(2) }, otherToken},
		{"a proof cut short", func(a *mdns.Announcement) { a.Text[1] = a.Text[1][:len(a.Text[1])-1] }, otherToken},
		{"no proof", func(a *mdns.Announcement) { a.Text = a.Text[:1] }, notOurs},
		{"an empty proof", func(a *mdns.Announcement) { a.Text[1] = proofPrefix }, otherToken},
		{"of 2015", func(a *mdns.Announcement) { a.Text = []string{"Docker Cluster"} }, notOurs},
		{"another version", func(a *mdns.Announcement) { a.Text[0] = "v=2" }, notOurs},
		{"another port", func(a *mdns.Announcement) { a.Port = 1 }, notOurs},
		{"more text", func(a *mdns.Announcement) { a.Text = append(a.Text, "more") }, notOurs},
		{"no address", func(a *mdns.Announcement) { a.Addr = netip.Addr{} }, notOurs},
	} {
		a := good
		a.Text = slices.Clone(good.Text)
		c.change(&a)
		key, err := token.proofKey()
		if err != nil {
			t.Fatal(err)
		}
		if got := judge(key, a, 8301); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestCandidatesAreAskedEverMoreRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		token := NewToken()
		c := searching(t, token)
		c.hear(announced(t, token, address(1)))
		began := time.Now()
		var asked []time.Duration
		for time.Since(began) < 3*time.Minute {
			c.hear(announced(t, token, address(1)))
			if due := c.due(); len(due) == 1 {
				asked = append(asked, time.Since(began))
				c.inVain(due)
			}
			time.Sleep(time.Second)
		}
		want := []time.Duration{0, 5 * time.Second, 15 * time.Second, 35 * time.Second, 75 * time.Second, 135 * time.Second}
		if !slices.Equal(asked, want) {
			t.Errorf("asked after %v, want %v", asked, want)
		}
		time.Sleep(fresh + time.Second)
		if due := c.due(); len(due) != 0 {
			t.Errorf("%v is asked, and was not heard for long", due)
		}
		if _, ours := c.others(); ours {
			t.Error("it is remembered")
		}
	})
}

// Whoever has the token, which in an insecure cluster is anybody, can fill the
// list, and the next that comes is asked all the same.
func TestAFullListTakesTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		token := NewToken()
		c := searching(t, token)
		for n := range 1000 {
			c.hear(announced(t, token, address(n)))
		}
		if len(c.hosts) != maxCandidates {
			t.Errorf("%d are remembered", len(c.hosts))
		}
		honest := address(2000)
		for rounds := 1; ; rounds++ {
			due := c.due()
			if len(due) > maxCandidates {
				t.Fatalf("%d are asked at once", len(due))
			}
			if slices.Contains(due, honest) {
				if rounds > 3 {
					t.Errorf("only in round %d", rounds)
				}
				break
			}
			c.inVain(due)
			for n := range 1000 {
				c.hear(announced(t, token, address(5000+rounds*1000+n)))
				time.Sleep(time.Millisecond)
				c.hear(announced(t, token, honest))
			}
			if rounds > 100 {
				t.Fatal("never")
			}
		}
	})
}

func TestStrangersAreNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		token, other := NewToken(), NewToken()
		c := searching(t, token)
		for n := range 100 {
			c.hear(announced(t, other, address(n)))
		}
		strangers, ours := c.others()
		if len(strangers) != maxStrangers || ours || len(c.due()) != 0 {
			t.Errorf("%v, %v", strangers, ours)
		}
		if got := addresses(strangers); got != "192.0.0.0, 192.0.0.1, 192.0.0.2, ..." {
			t.Error(got)
		}
		c.hear(announced(t, token, address(1))) // it has joined our cluster
		if strangers, ours := c.others(); slices.Contains(strangers, address(1)) || !ours {
			t.Errorf("%v, %v", strangers, ours)
		}
		time.Sleep(fresh + time.Second)
		if strangers, _ := c.others(); len(strangers) != 0 {
			t.Errorf("%v", strangers)
		}
	})
}

// Two clusters with one token are seen as two also when their hosts are heard, and
// asked, one after the other.
func TestTwoClustersAreRemembered(t *testing.T) {
	token := NewToken()
	c := searching(t, token)
	for n := range 3 {
		c.hear(announced(t, token, address(n)))
	}
	if other, differs := c.answered(address(0), "a"); differs {
		t.Errorf("alone, and differs from %s", other)
	}
	if other, differs := c.answered(address(1), "a"); differs {
		t.Errorf("the same, and differs from %s", other)
	}
	if other, differs := c.answered(address(2), "b"); !differs || other == address(2) {
		t.Errorf("another cluster: %s, %v", other, differs)
	}
	if _, differs := c.answered(address(0), "a"); !differs {
		t.Error("that is forgotten")
	}
}
