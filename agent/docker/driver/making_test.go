package driver

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/socketplane/socketplane/agent/api"
)

// stalling is an agent that deletes a network when it is told to go on.
type stalling struct {
	*agent
	goOn chan struct{}
}

func (s stalling) DeleteDockersNetwork(ctx context.Context, id string, subnet netip.Prefix) error {
	<-s.goOn
	return s.agent.DeleteDockersNetwork(ctx, id, subnet)
}

const webByName = `{"NetworkID":"n2","Options":{"com.docker.network.generic":{"socketplane.network":"web"}},"IPv4Data":[{` + aPool + `}]}`

// TestMadeAnewWhileDeletedLate: a network whose Docker network was removed before
// Docker had told that it made it is deleted late. Who makes it anew meanwhile
// finds it deleted, not about to be.
func TestMadeAnewWhileDeletedLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &agent{networks: []api.Network{byDocker("web")}}
		d := newTestDriver(a)
		s := stalling{a, make(chan struct{})}
		d.Service = s
		late := make(chan error, 1)
		go func() { late <- d.deleteLate(segment{"web", byDocker("web").Subnet}) }()
		synctest.Wait()
		status := make(chan int, 1)
		go func() {
			got, _ := call(t, d.Handler(), "NetworkDriver.CreateNetwork", webByName)
			status <- got
		}()
		synctest.Wait()
		if asked := a.wasAsked(); len(asked) > 0 {
			t.Errorf("asked while it is being deleted: %q", asked)
		}
		close(s.goOn)
		if err := <-late; err != nil {
			t.Error(err)
		}
		if got := <-status; got != 200 {
			t.Errorf("made anew: %d", got)
		}
		asked := a.wasAsked()
		if len(asked) != 2 || asked[0] != "delete web" || asked[1] != "create web 10.6.0.0/24 10.6.0.1 false" {
			t.Errorf("asked %q", asked)
		}
	})
}

// TestDeletedLateButMadeAnew: the late deletion leaves a network alone that a user
// is making again, and not one whose making failed.
func TestDeletedLateButMadeAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &agent{networks: []api.Network{byDocker("web")}}
		d := newTestDriver(a)
		web := segment{"web", byDocker("web").Subnet}
		d.known.expect("web", "n2")
		if err := d.deleteLate(web); err != nil || len(a.wasAsked()) > 0 {
			t.Errorf("%v, asked %q", err, a.wasAsked())
		}
		d.known.unexpect("web", "n2")
		if err := d.deleteLate(web); err != nil || len(a.wasAsked()) != 1 {
			t.Errorf("%v, asked %q", err, a.wasAsked())
		}
		if err := d.known.awaitDeletion(t.Context(), "web"); err != nil {
			t.Error(err)
		}
		d.known.mu.Lock()
		end := d.known.deletes("web")
		d.known.mu.Unlock()
		defer end()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := d.known.awaitDeletion(ctx, "web"); api.CodeOf(err) != api.CodeUnavailable {
			t.Errorf("while it is being deleted: %v", err)
		}
	})
}
