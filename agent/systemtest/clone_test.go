package systemtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Promise: a machine whose disk is a copy of another's, which lives, is refused
// with a sentence that says what to do, and takes nothing from that one.
func TestClonedDisk(t *testing.T) {
	const path = "/var/lib/socketplane/host-id"
	makeNetwork(t, 1, "clone", "10.156.0.0/24")
	original, far := runContainer(t, 1, "clone", "cl-original"), runContainer(t, 2, "clone", "cl-far")
	eventually(t, "reach "+original.name, func() error { return far.pings(t, original.ip) })
	write := func(id string) {
		if r := tryInput(t, 3, id, "tee", path); r.code != 0 {
			t.Fatalf("h3: %s", r.stderr)
		}
	}
	theirs, own := must(t, 1, "cat", path), must(t, 3, "cat", path)
	eventuallyIn(t, 45*time.Second, "h1 holds its record", func() error { return holdsRecord("h1", strings.TrimSpace(theirs)) })
	store := func() map[string]string {
		all := kv(t, "")
		// The host that is off for this test tells its routes when it is back.
		maps.DeleteFunc(all, func(key, _ string) bool { return key == "hosts/"+strings.TrimSpace(own) })
		return all
	}
	sp(t, 3, "agent", "stop")
	back := func() {
		write(own)
		sp(t, 3, "agent", "start")
		awaitAgent(t, 3)
	}
	t.Cleanup(back)
	before := store()
	write(theirs)
	r := try(t, 3, "socketplane", "agent", "run")
	for _, part := range []string{"another machine has this host's identity", `host "h1" at 198.18.0.1`, "remove the file host-id"} {
		if last := r.stderr[strings.LastIndex(strings.TrimSpace(r.stderr), "\n")+1:]; r.code != 1 || !strings.Contains(last, part) {
			t.Errorf("exit status %d, no %q in: %s", r.code, part, last)
		}
	}
	if diff := cmp.Diff(before, store()); diff != "" {
		t.Errorf("the store has changed (-before +after):\n%s", diff)
	}
	if err := far.pings(t, original.ip, patiently...); err != nil {
		t.Error(err)
	}
	healthy(t, 1)
	back()
	eventually(t, "all is well", func() error { return invariants(t, "clone", "10.156.0.0/24", 1, 2, 3) })
}

// holdsRecord says whether a host's record is held by the session of its agent as
// it runs now. After a restart it is another's for a while, that of the earlier
// life, and then anybody's: of two machines with one identity the first is the host.
func holdsRecord(name, id string) error {
	get := func(path string, into any) error {
		resp, err := consulOn(1).Get("http://127.0.0.1:8500/v1/" + path + "?consistent")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		return json.NewDecoder(resp.Body).Decode(into)
	}
	var sessions []struct{ ID, Name string }
	var record []struct{ Session string }
	if err := errors.Join(get("session/list", &sessions), get("kv/socketplane/v1/hosts/"+id, &record)); err != nil {
		return err
	}
	var its []string
	for _, s := range sessions {
		if s.Name == "socketplane "+name {
			its = append(its, s.ID)
		}
	}
	if len(its) != 1 || len(record) != 1 || record[0].Session != its[0] {
		return fmt.Errorf("sessions %q, record %+v", its, record)
	}
	return nil
}
