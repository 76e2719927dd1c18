package state_test

import (
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/state/consultest"
)

func waitLost(t *testing.T, s state.Session, within time.Duration) {
	t.Helper()
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-s.Lost():
	case <-timer.C:
		t.Errorf("session %s is not lost after %v", s.ID(), within)
	}
}

func TestConsulSessionEndedByAnother(t *testing.T) {
	t.Parallel()
	addr := consultest.Start(t)
	s := openConsul(t, state.ConsulConfig{Address: addr})
	session := openSession(t.Context(), t, s)
	admin, err := api.NewClient(&api.Config{Address: addr})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Session().Destroy(session.ID(), nil); err != nil {
		t.Fatal(err)
	}
	waitLost(t, session, ttl)
}

func TestConsulSessionWithoutServer(t *testing.T) {
	t.Parallel()
	server := consultest.New(t, consultest.Options{})
	s := openConsul(t, state.ConsulConfig{Address: server.Addr})
	session := openSession(t.Context(), t, s)
	server.Kill()
	waitLost(t, session, ttl+10*time.Second)
}

// A restart shorter than the ttl costs no session, and it is renewed: it lives
// longer than twice its ttl.
func TestConsulSessionIsRenewed(t *testing.T) {
	t.Parallel()
	server := consultest.New(t, consultest.Options{})
	s := openConsul(t, state.ConsulConfig{Address: server.Addr})
	session := openSession(t.Context(), t, s)
	held := mustHold(t, s, "host", "x", 0, session)
	server.Kill()
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	timer := time.NewTimer(2*ttl + 3*time.Second)
	defer timer.Stop()
	select {
	case <-session.Lost():
		t.Fatal("the session was lost")
	case <-timer.C:
	}
	if e := mustGet(t, s, "host"); e.Session != session.ID() || e.Version != held.Version {
		t.Errorf("got %+v", e)
	}
}
