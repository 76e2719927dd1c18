package systemtest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// putKV writes a key of ours as whoever reaches the store does; an empty value
// deletes it.
func putKV(t testing.TB, key, value string) {
	t.Helper()
	method := http.MethodPut
	if value == "" {
		method = http.MethodDelete
	}
	eventually(t, method+" "+key, func() error {
		req, err := http.NewRequestWithContext(context.Background(), method, "http://127.0.0.1:8500/v1/kv/socketplane/v1/"+key, strings.NewReader(value))
		if err != nil {
			return err
		}
		resp, err := consulOn(1).Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK || !strings.Contains(string(body), "true") {
			return fmt.Errorf("%s: %s", resp.Status, body)
		}
		return nil
	})
}

// Promise: who can write the store does not take a packet from the containers or
// the hosts. What is wrong is not programmed, each host says so, and all is well
// when the record is right again.
func TestHostileStore(t *testing.T) {
	serveMetadata(t)
	makeNetwork(t, 1, "dis", "10.161.0.0/24")
	a, b, c := runContainer(t, 1, "dis", "dis-a"), runContainer(t, 2, "dis", "dis-b"), runContainer(t, 3, "dis", "dis-c")
	for _, to := range []string{b.ip, c.ip, "203.0.113.1"} {
		eventually(t, "reach "+to, func() error { return a.pings(t, to) })
	}
	ns := namespace(t, 1, "dis-ns")
	good := kv(t, "networks/dis")["networks/dis"]
	h2, err := agentOn(t, 2).Status(within(t))
	if err != nil {
		t.Fatal(err)
	}
	ownKey := "hosts/" + h2.Host.ID
	const thief = "00000000-0000-4000-8000-00000000dead"
	host := func(vtep string, mtu int) string {
		return fmt.Sprintf(`{"version":1,"id":%q,"name":"thief","vtep":%q,"underlay_mtu":%d,"routes":null,"agent":"","datapath":"netdev"}`, thief, vtep, mtu)
	}
	net := func(name, subnet, gateway string, more string) string {
		return fmt.Sprintf(`{"version":1,"id":%q,"subnet":%q,"gateway":%q,"vlan":4000,"vni":14000%s}`, name, subnet, gateway, more)
	}
	everywhere := func(parts ...string) {
		t.Helper()
		for k := 1; k <= 3; k++ {
			named(t, k, parts...)
		}
	}
	t.Cleanup(func() { // should the test end half way
		for _, key := range []string{"networks/evil", "hosts/" + thief} {
			putKV(t, key, "")
		}
		putKV(t, "networks/dis", good)
		for k := 1; k <= 3; k++ {
			healthy(t, k)
		}
	})

	cases := []struct {
		name  string
		spoil func(t *testing.T)
		mend  func(t *testing.T)
	}{
		{"a network over the underlay", func(t *testing.T) {
			putKV(t, "networks/evil", net("evil", "198.18.0.0/24", "198.18.0.1", ""))
			everywhere(`network "evil"`, "198.18.0.")
			if r := try(t, 1, "socketplane", "connect", "-n", "evil", "--netns", ns, "--id", "dis-x"); r.code == 0 || !strings.Contains(r.stderr, "overlaps") {
				t.Errorf("connect: %d %s", r.code, r.stderr)
			}
		}, func(t *testing.T) { putKV(t, "networks/evil", "") }},
		{"a public network", func(t *testing.T) {
			putKV(t, "networks/evil", net("evil", "203.0.113.0/24", "203.0.113.254", ""))
			everywhere(`network "evil"`, "no private range")
			must(t, 1, "ping", "-c", "1", "-W", "10", "203.0.113.1")
			if r := try(t, 1, "socketplane", "network", "create", "evil2", "8.8.8.0/24"); r.code == 0 || !strings.Contains(r.stderr, "allow_public") {
				t.Errorf("create: %d %s", r.code, r.stderr)
			}
		}, func(t *testing.T) { putKV(t, "networks/evil", "") }},
		{"the network in use moves over the underlay", func(t *testing.T) {
			putKV(t, "networks/dis", net("dis", "198.18.0.0/24", "198.18.0.1", ""))
			everywhere(`network "dis"`, "198.18.0.0/24", "10.161.0.0/24")
			sp(t, 2, "agent", "restart")
			awaitAgent(t, 2)
			named(t, 2, `network "dis"`, "198.18.0.0/24", "10.161.0.0/24")
		}, func(t *testing.T) { putKV(t, "networks/dis", good) }},
		{"the cloud's metadata", func(t *testing.T) {
			putKV(t, "networks/dis", strings.Replace(good, `"vni"`, `"allow_metadata":true,"vni"`, 1))
			everywhere(`network "dis"`, "allow_metadata")
			if r := a.exec(t, "timeout", "2", "wget", "-q", "-O", "-", "http://"+metadataAddr+"/user_data"); r.code == 0 || strings.Contains(r.stdout, "token") {
				t.Errorf("read: %s", r.stdout)
			}
		}, func(t *testing.T) { putKV(t, "networks/dis", good) }},
		{"a host with another's address", func(t *testing.T) {
			putKV(t, "hosts/"+thief, host(h2.Host.VTEP, 1500))
			for _, k := range []int{1, 3} {
				named(t, k, `"thief"`, h2.Host.VTEP, h2.Host.ID)
			}
			named(t, 2, `"thief"`, h2.Host.VTEP, "of this host")
		}, func(t *testing.T) { putKV(t, "hosts/"+thief, "") }},
		{"a host at the broadcast address", func(t *testing.T) {
			putKV(t, "hosts/"+thief, host("198.18.0.255", 1500))
			everywhere(`"thief"`, "198.18.0.255", "broadcast")
		}, func(t *testing.T) { putKV(t, "hosts/"+thief, "") }},
		{"a small MTU", func(t *testing.T) {
			before := sp(t, 1, "network", "info", "dis", "-o", "json")
			putKV(t, "hosts/"+thief, host("198.18.0.66", 646))
			everywhere(`"thief"`, "646")
			if now := sp(t, 1, "network", "info", "dis", "-o", "json"); now != before {
				t.Errorf("the network is %s, was %s", now, before)
			}
		}, func(t *testing.T) { putKV(t, "hosts/"+thief, "") }},
		{"a host's own record", func(t *testing.T) {
			right := kv(t, ownKey)[ownKey]
			putKV(t, ownKey, strings.Replace(right, h2.Host.VTEP, "198.18.0.77", 1))
			named(t, 2, ownKey, "somebody else")
			eventually(t, "it is put right", func() error {
				if now := kv(t, ownKey)[ownKey]; now != right {
					return fmt.Errorf("it is %s", now)
				}
				return nil
			})
			if out := sp(t, 2, "agent", "status"); !strings.Contains(out, "Overwritten:") {
				t.Errorf("status says %s", out)
			}
		}, func(*testing.T) {}},
		{"a host's own list", func(t *testing.T) {
			key := "endpoints/dis/" + h2.Host.ID
			right := kv(t, key)[key]
			for _, spoil := range []string{"", `{"version":1,"endpoints":[]}`, strings.ReplaceAll(right, `"attached":true`, `"attached":false`)} {
				putKV(t, key, spoil)
				eventually(t, "it is put right", func() error {
					if now := kv(t, key)[key]; now != right {
						return fmt.Errorf("it is %s", now)
					}
					return nil
				})
			}
			named(t, 2, key, "somebody else")
		}, func(*testing.T) {}},
		{"a host with a container's address", func(t *testing.T) {
			must(t, 1, "ip", "link", "add", "dis-br", "type", "bridge")
			t.Cleanup(func() { must(t, 1, "ip", "link", "del", "dis-br") })
			must(t, 1, "ip", "addr", "add", "172.31.9.1/24", "dev", "dis-br")
			must(t, 1, "ip", "link", "set", "dis-br", "up")
			putKV(t, "hosts/"+thief, host("172.31.9.2", 1500))
			named(t, 1, `"thief"`, "172.31.9.2", "interface dis-br", "uplinks")
			if set := must(t, 1, "nft", "list", "set", "ip", "socketplane", "hosts"); strings.Contains(set, "172.31.9.2") {
				t.Errorf("a container is among the hosts: %s", set)
			}
		}, func(t *testing.T) { putKV(t, "hosts/"+thief, "") }},
	}
	for _, x := range cases {
		t.Run(x.name, func(t *testing.T) {
			probes := []*prober{
				startProbe(t, "h1 to h2", a.namespace(t), b.ip), startProbe(t, "h2 to h3", b.namespace(t), c.ip),
				startProbe(t, "h1 to the outside", a.namespace(t), "203.0.113.1"),
			}
			probes[0].awaitSent(t, 20)
			mend := sync.OnceFunc(func() { x.mend(t) })
			defer mend() // also when a host does not name what is wrong
			x.spoil(t)
			probes[0].awaitSent(t, 250) // longer than a record waits to be believed
			mend()
			for k := 1; k <= 3; k++ {
				healthy(t, k)
			}
			lostNothing(t, 250, probes...)
		})
	}
}
