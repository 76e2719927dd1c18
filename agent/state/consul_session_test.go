package state_test

import (
	"strconv"
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
	session, held := openAcrossRestart(t, s, server)
	timer := time.NewTimer(2*ttl + 3*time.Second)
	defer timer.Stop()
	select {
	case <-session.Lost():
		t.Fatal("the session was lost")
	case <-timer.C:
	}
	if e := mustGet(t, s, held.Key); e.Session != session.ID() || e.Version != held.Version {
		t.Errorf("got %+v", e)
	}
}

// openAcrossRestart opens a session that holds a key, and restarts the server while
// it has time left to be renewed. On a busy machine a restart may last longer than
// that: then it is another session's turn.
func openAcrossRestart(t *testing.T, s state.Store, server *consultest.Server) (state.Session, state.Entry) {
	t.Helper()
	const attempts, left = 5, 3 * time.Second
	for attempt := range attempts {
		began := time.Now()
		session := openSession(t.Context(), t, s)
		held := mustHold(t, s, "host/"+strconv.Itoa(attempt), "x", 0, session)
		server.Kill()
		if err := server.Restart(); err != nil {
			t.Fatal(err)
		}
		took := time.Since(began)
		if took <= ttl-left {
			return session, held
		}
		t.Logf("the server was back %s after the session began: too late for its ttl", took)
	}
	t.Fatalf("no restart of %d was shorter than the ttl", attempts)
	return nil, state.Entry{}
}
