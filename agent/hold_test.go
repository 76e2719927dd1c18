package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/socketplane/socketplane/agent/api"
)

func (h *testHost) mustHold(ip string) api.Hold {
	h.t.Helper()
	held, err := h.Hold(h.t.Context(), api.HoldRequest{Network: "foo", IP: ip})
	if err != nil {
		h.t.Fatalf("hold %q: %v", ip, err)
	}
	return held
}

// TestHold: an address is kept before its endpoint exists, becomes the endpoint's
// and nobody else's, and goes back when nobody comes for it.
func TestHold(t *testing.T) {
	h := newTestHost(t)
	empty := h.whole()
	held := h.mustHold("")
	if held.IP.String() != "10.6.0.2" || held.PrefixLen != 16 || held.Gateway.String() != "10.6.0.1" {
		t.Errorf("got %+v", held)
	}
	if other := h.mustHold(""); other.IP == held.IP {
		t.Errorf("two holds of %s", held.IP)
	}
	// Another door may not have what Docker was promised.
	_, err := h.Reserve(t.Context(), api.ReserveRequest{ID: "c1", Network: "foo", IP: "10.6.0.2", Source: api.SourceDocker})
	wantCode(t, err, api.CodeConflict, "10.6.0.2")
	if _, err := h.Reserve(t.Context(), api.ReserveRequest{ID: "e1", Network: "foo", IP: "10.6.0.2", Source: api.SourceDriver}); err != nil {
		t.Fatal(err)
	}
	// What was taken over is no hold any more.
	if err := h.Unhold(t.Context(), "foo", "10.6.0.2"); err != nil {
		t.Fatal(err)
	}
	_, err = h.Hold(t.Context(), api.HoldRequest{Network: "foo", IP: "10.6.0.1"})
	wantCode(t, err, api.CodeConflict, "gateway")
	_, err = h.Hold(t.Context(), api.HoldRequest{Network: "none-such"})
	wantCode(t, err, api.CodeNotFound)

	if err := h.Release(t.Context(), "e1"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := h.Unhold(t.Context(), "foo", "10.6.0.3"); err != nil {
			t.Fatal(err)
		}
	}
	h.wantWhole("given back", empty)

	// Within a part of the subnet.
	within, err := h.Hold(t.Context(), api.HoldRequest{Network: "foo", Range: "10.6.128.0/17"})
	if err != nil || within.IP.String() != "10.6.128.0" || within.PrefixLen != 16 {
		t.Errorf("within a range: %+v, %v", within, err)
	}
	for _, bad := range []string{"10.7.0.0/24", "10.6.0.0/8", "x", "10.6.0.1/24", "fd00::/64"} {
		_, err := h.Hold(t.Context(), api.HoldRequest{Network: "foo", Range: bad})
		wantCode(t, err, api.CodeInvalid, "range")
	}
	if err := h.Unhold(t.Context(), "foo", "10.6.128.0"); err != nil {
		t.Fatal(err)
	}

	// Nobody comes.
	h.mustHold("10.6.0.9")
	h.holds.mu.Lock()
	for owner, x := range h.holds.byOwner {
		x.until = time.Now()
		h.holds.byOwner[owner] = x
	}
	h.holds.mu.Unlock()
	h.converge()
	h.wantWhole("expired", empty)

	// The agent dies: the next one finds an address without an endpoint.
	h.mustHold("10.6.0.9")
	h.start()
	h.converge()
	h.wantWhole("after a crash", empty)

	// The store takes it and its answer is lost.
	h.calls.Reset()
	h.calls.FailAt(1, true)
	_, err = h.Hold(t.Context(), api.HoldRequest{Network: "foo"})
	wantCode(t, err, api.CodeUnavailable)
	h.calls.Reset()
	h.converge()
	h.wantWhole("after a lost answer", empty)
}

// TestHoldAgain: Docker died between the address and the endpoint, and asks again;
// while it lives, the first has it.
func TestHoldAgain(t *testing.T) {
	h := newTestHost(t)
	empty := h.whole()
	h.making = 100 * time.Millisecond
	start := time.Now() // before the first has it: however slow the machine, the second comes later than that and making
	h.mustHold("10.6.0.9")
	h.mustHold("10.6.0.9")
	if took := time.Since(start); took < h.making {
		t.Errorf("taken over after %s", took)
	}
	h.making = time.Minute
	if _, err := h.Reserve(t.Context(), api.ReserveRequest{ID: "e1", Network: "foo", IP: "10.6.0.9", Source: api.SourceDriver}); err != nil {
		t.Fatal(err)
	}
	// It is in the making: nobody else gets its address, nor waits until it might be had.
	impatient, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := h.Hold(impatient, api.HoldRequest{Network: "foo", IP: "10.6.0.9"})
	wantCode(t, err, api.CodeConflict, "taken")
	h.settle()
	if err := h.Release(t.Context(), "e1"); err != nil {
		t.Fatal(err)
	}
	h.settle() // a network that its last container has left stays for a moment
	h.wantWhole("released", empty)
}

// TestTransferFails: an address whose passing to its endpoint failed is given back
// by whoever gives it back.
func TestTransferFails(t *testing.T) {
	h := newTestHost(t)
	empty := h.whole()
	h.mustHold("10.6.0.9")
	h.calls.Reset()
	h.calls.FailAt(1, false)
	_, err := h.Reserve(t.Context(), api.ReserveRequest{ID: "e1", Network: "foo", IP: "10.6.0.9", Source: api.SourceDriver})
	wantCode(t, err, api.CodeUnavailable)
	h.calls.Reset()
	if err := h.Unhold(t.Context(), "foo", "10.6.0.9"); err != nil {
		t.Fatal(err)
	}
	h.converge()
	h.wantWhole("given back", empty)
}

// TestDescribe: it never makes an endpoint.
func TestDescribe(t *testing.T) {
	h := newTestHost(t)
	empty := h.whole()
	_, err := h.Describe(t.Context(), api.DescribeRequest{ID: "e1", ContainerID: "abc", ContainerName: "web"})
	wantCode(t, err, api.CodeNotFound)
	_, err = h.Describe(t.Context(), api.DescribeRequest{ID: "e1", ContainerID: "../x"})
	wantCode(t, err, api.CodeInvalid)
	h.wantWhole("described", empty)
}

// TestHandOverAgain: Docker repeats a call that the agent's death has cut off.
func TestHandOverAgain(t *testing.T) {
	h := newTestHost(t)
	req := api.AttachRequest{ID: "e1", Network: "foo", Source: api.SourceDriver, NetNS: "/ns/e1", HandOver: true}
	first, err := h.Attach(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	h.start()
	h.converge()
	if again, err := h.Attach(t.Context(), req); err != nil || again.Peer != first.Peer || again.Peer == "" {
		t.Errorf("after a restart: %+v, %v", again, err)
	}
}

// TestForsaken: Docker asks for the address of a container that it could not say
// the end of.
func TestForsaken(t *testing.T) {
	h := newTestHost(t)
	h.mustHold("10.6.0.9")
	handOver(t, h, "e1", "10.6.0.9")
	_, err := h.Hold(t.Context(), api.HoldRequest{Network: "foo", IP: "10.6.0.9"})
	wantCode(t, err, api.CodeConflict, "taken")
	h.links.Kill("/ns/e1")
	h.mustHold("10.6.0.9")
	if _, err := h.Endpoint(t.Context(), "e1"); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("the endpoint of the dead: %v", err)
	}
	// What another door made is not Docker's to take.
	h.mustAttach("c1", "foo", "/ns/c1")
	h.links.Kill("/ns/c1")
	c1, err := h.Endpoint(t.Context(), "c1")
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.Hold(t.Context(), api.HoldRequest{Network: "foo", IP: c1.IP.String()})
	wantCode(t, err, api.CodeConflict, "taken")
}

// handOver attaches an endpoint of Docker's networks and moves its interface as
// libnetwork does.
func handOver(t *testing.T, h *testHost, id, ip string) api.Endpoint {
	t.Helper()
	e, err := h.Attach(t.Context(), api.AttachRequest{
		ID: id, Network: "foo", IP: ip, Source: api.SourceDriver, NetNS: "/ns/" + id, HandOver: true, MAC: "02:00:00:00:00:07",
	})
	if err != nil {
		t.Fatal(err)
	}
	if e.Peer == "" || e.IfName != "" || e.MAC != "02:00:00:00:00:07" || !e.Attached {
		t.Errorf("handed over: %+v", e)
	}
	h.links.Move(e.Peer, "/ns/"+id, "eth0")
	return e
}

func TestHandOver(t *testing.T) {
	h := newTestHost(t)
	empty := h.whole()
	req := api.AttachRequest{ID: "e1", Network: "foo", Source: api.SourceDriver, NetNS: "/ns/e1", HandOver: true}
	for range 2 { // the same request again gives the same
		e, err := h.Attach(t.Context(), req)
		if err != nil || e.Peer == "" || e.IP.String() != "10.6.0.2" {
			t.Fatalf("got %+v, %v", e, err)
		}
	}
	e, _ := h.Endpoint(t.Context(), "e1")
	h.links.Move(e.Peer, "/ns/e1", "eth0")
	attached := h.whole()
	h.converge()
	h.wantWhole("converged", attached)
	h.start()
	h.converge()
	h.wantWhole("after a restart", attached)

	// Another MTU is followed, whatever Docker calls the interface.
	h.mtu = 1400
	h.converge()
	if got := strings.Join(h.links.State(), "\n"); !strings.Contains(got, "as eth0 mtu 1350") {
		t.Errorf("with another MTU:\n%s", got)
	}
	h.mtu = 1500
	h.converge()
	h.wantWhole("with the first MTU again", attached)

	// Who it is becomes known later.
	if _, err := h.Describe(t.Context(), api.DescribeRequest{ID: "e1", ContainerID: "abc", ContainerName: "web"}); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"web", "abc", "ab", "e1"} {
		if e, err := h.Endpoint(t.Context(), ref); err != nil || e.ContainerID != "abc" || e.ContainerName != "web" || e.ID != "e1" {
			t.Errorf("%s: %+v, %v", ref, e, err)
		}
	}
	h.converge()
	h.start()
	h.converge()
	if e, err := h.Endpoint(t.Context(), "web"); err != nil || e.ContainerID != "abc" {
		t.Errorf("after a restart: %+v, %v", e, err)
	}

	// The namespace goes: the address stays until Docker gives it back.
	h.links.RemoveNetNS("/ns/e1")
	h.converge()
	if e, err := h.Endpoint(t.Context(), "e1"); err != nil || e.Attached || e.Peer != "" {
		t.Errorf("without its namespace: %+v, %v", e, err)
	}
	if err := h.Release(t.Context(), "e1"); err != nil {
		t.Fatal(err)
	}
	h.settle() // a network that its last container has left stays for a moment
	h.wantWhole("released", empty)
}

// TestMACs: one that somebody asks for is kept, and is nobody else's.
func TestMACs(t *testing.T) {
	h := newTestHost(t)
	reserve := func(id, mac string) error {
		_, err := h.Reserve(t.Context(), api.ReserveRequest{ID: id, Network: "foo", MAC: mac, Source: api.SourceDocker})
		return err
	}
	if err := reserve("c1", "02-00-00-00-00-0A"); err != nil {
		t.Fatal(err)
	}
	if e, err := h.Endpoint(t.Context(), "c1"); err != nil || e.MAC != "02:00:00:00:00:0a" {
		t.Errorf("got %+v, %v", e, err)
	}
	wantCode(t, reserve("c2", "02:00:00:00:00:0a"), api.CodeConflict, `"c1"`)
	wantCode(t, reserve("c2", "02:42:0a:06:00:01"), api.CodeConflict, "gateway")
	wantCode(t, reserve("c1", "02:00:00:00:00:0b"), api.CodeConflict, "already")
	h.put("socketplane/v1/endpoints/foo/"+peerID,
		`{"version":1,"endpoints":[{"id":"far","ip":"10.6.0.77","mac":"02:00:00:00:00:77","ifname":"eth0","source":"docker","attached":true}]}`)
	h.watch()
	wantCode(t, reserve("c2", "02:00:00:00:00:77"), api.CodeConflict, `"far"`)
	for _, bad := range []string{"x", "01:00:00:00:00:01", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "02:00:00:00:00:00:00:01"} {
		wantCode(t, reserve("c2", bad), api.CodeInvalid, "MAC")
	}
	h.start()
	h.converge()
	if e, err := h.Endpoint(t.Context(), "c1"); err != nil || e.MAC != "02:00:00:00:00:0a" {
		t.Errorf("after a restart: %+v, %v", e, err)
	}
	if !errors.Is(reserve("c3", ""), nil) {
		t.Error("without a MAC")
	}
}

// TestHoldAcrossRestart: an agent that is restarted between Docker's asking for an
// address and its endpoint lets Docker wait until it knows its host, and the
// endpoint has the address.
func TestHoldAcrossRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestHost(t)
		held := h.mustHold("")
		h.start()
		type answer struct {
			e   api.Endpoint
			err error
		}
		got := make(chan answer, 1)
		go func() {
			e, err := h.Reserve(t.Context(), api.ReserveRequest{ID: "e1", Network: "foo", IP: held.IP.String(), Source: api.SourceDriver})
			got <- answer{e, err}
		}()
		time.Sleep(loadTimeout - time.Millisecond)
		synctest.Wait()
		select {
		case a := <-got:
			t.Fatalf("answered before the store has: %v", a.err)
		default:
		}
		h.watch()
		h.converge()
		if a := <-got; a.err != nil || a.e.IP != held.IP {
			t.Errorf("%v, %v, want %s", a.e.IP, a.err, held.IP)
		}
	})
}
