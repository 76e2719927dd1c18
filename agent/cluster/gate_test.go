package cluster

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/api"
)

// slowAgent answers once it is let.
type slowAgent struct {
	asked chan struct{}
	let   chan struct{}
}

func (a slowAgent) Endpoints(context.Context) ([]api.Endpoint, error) {
	a.asked <- struct{}{}
	<-a.let
	return nil, api.Errorf(api.CodeUnavailable, "it was let")
}

func (slowAgent) Release(context.Context, string) error { return nil }

func (slowAgent) Status(context.Context) (api.Status, error) { return api.Status{}, nil }

// TestWhoHangsUpIsNotInLine: while a change of the place goes on, a call whose
// client has gone away ends, and changes nothing later.
func TestWhoHangsUpIsNotInLine(t *testing.T) {
	calls := map[string]func(*Keeper, context.Context) error{
		"bootstrap": func(k *Keeper, ctx context.Context) error {
			_, err := k.Bootstrap(ctx, api.BootstrapRequest{})
			return err
		},
		"join": func(k *Keeper, ctx context.Context) error {
			_, err := k.Join(ctx, api.JoinRequest{Token: NewToken().Secret(), Addresses: []string{"192.0.2.1"}})
			return err
		},
		"bind": func(k *Keeper, ctx context.Context) error {
			_, err := k.Bind(ctx, api.BindRequest{Iface: "eth7"})
			return err
		},
		"leave": func(k *Keeper, ctx context.Context) error {
			_, err := k.Leave(ctx, api.LeaveRequest{})
			return err
		},
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			before := Place{Is: api.PlaceJoined, Cluster: "7001c2b0-c66d-4a66-b5c3-d21c359c1807", Settled: true, Peers: []netip.Addr{netip.MustParseAddr("127.0.0.9")}}
			if err := before.Save(dir); err != nil {
				t.Fatal(err)
			}
			k, err := NewKeeper(KeeperConfig{
				Dir: dir, HostID: id, HostName: "h", Ports: DefaultPorts(), SessionTTL: time.Second, Logger: slog.New(slog.DiscardHandler),
				Underlay: func(iface string) (Underlay, error) {
					return Underlay{Iface: iface, Addr: netip.MustParseAddr("127.0.0.1")}, nil
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			_, cancel := k.Begin(t.Context())
			defer cancel()
			agent := slowAgent{asked: make(chan struct{}), let: make(chan struct{})}
			k.Serve(nil, agent, func() bool { return true })
			first := make(chan error, 1)
			go func() {
				_, err := k.Leave(t.Context(), api.LeaveRequest{Force: true})
				first <- err
			}()
			<-agent.asked // it has the place for itself

			ctx, hangUp := context.WithCancel(t.Context())
			second := make(chan error, 1)
			go func() { second <- call(k, ctx) }()
			hangUp()
			select {
			case err := <-second:
				if api.CodeOf(err) != api.CodeUnavailable {
					t.Errorf("it ended with: %v", err)
				}
			case <-time.After(10 * time.Second):
				t.Error("it waits on, for nobody")
			}
			if place, err := LoadPlace(dir); err != nil || place.Is != before.Is || place.Iface != "" {
				t.Errorf("the place is %+v, %v", place, err)
			}
			close(agent.let)
			<-first
		})
	}
}
