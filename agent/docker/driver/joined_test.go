package driver

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/api"
)

// TestDescribe: a container of which Docker says nothing keeps no other from its
// name, and what there is to do about it does not grow.
func TestDescribe(t *testing.T) {
	a := &agent{endpoints: []api.Endpoint{
		{ID: "e1", Source: api.SourceDriver, ContainerID: "e1"},
		{ID: "e2", Source: api.SourceDriver, ContainerID: "e2"},
		{ID: "e3", Source: api.SourceDriver, ContainerID: "c3", ContainerName: "name-c3"},
	}}
	d := newTestDriver(a)
	d.joined.patience = 50 * time.Millisecond
	there := &dockerd{containers: map[string]string{"a": "hangs", "c1": "e1", "c2": "e2", "c3": "e3"}}
	engine := there.engine(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); d.describe(ctx, engine) }()
	for range 3 {
		d.joined.add("a")
	}
	await := func(asked string) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !slices.Contains(a.wasAsked(), asked); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("asked %q, not to %s", a.wasAsked(), asked)
			}
		}
	}
	for _, id := range []string{"c1", "c3", "gone", "../x"} {
		d.joined.add(id)
	}
	await("describe e1 c1 name-c1")
	d.joined.add("c2") // later
	await("describe e2 c2 name-c2")
	cancel()
	<-ended
	if got := a.wasAsked(); len(got) != 2 {
		t.Errorf("asked %q", got)
	}
	// On a busy machine others than "a" have not been done in their time, either:
	// with more of it they are.
	d.joined.patience = 10 * time.Second
	for _, id := range d.joined.take() {
		if id != "a" {
			d.describeInTime(t.Context(), engine, id)
		}
	}
	d.joined.add("a")
	d.joined.add("a")
	if got := d.joined.take(); !slices.Equal(got, []string{"a"}) {
		t.Errorf("to be described: %q", got)
	}
}
