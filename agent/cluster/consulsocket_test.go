package cluster

import (
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/state/consultest"
)

// began starts a Consul as the agent does and waits until it leads itself.
func began(t *testing.T, opts ConsulOptions) *process {
	t.Helper()
	p, _, err := NewConsul(opts, slog.New(slog.DiscardHandler)).begin()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopLeftover(opts.Dir) })
	if err := newConsulClient(opts.socket()).awaitLeader(aMinute(t)); err != nil {
		log, _ := os.ReadFile(filepath.Join(opts.Dir, "consul.log"))
		t.Fatalf("%v\n%s", err, log)
	}
	return p
}

// Consul's HTTP API is root's alone: a socket that nobody else can open, in a
// directory that nobody else can enter.
func TestConsulSocketIsOwners(t *testing.T) {
	opts := options(t)
	if err := os.MkdirAll(opts.Dir, 0o777); err != nil { // as an earlier agent may have left it
		t.Fatal(err)
	}
	if err := os.Chmod(opts.Dir, 0o777); err != nil {
		t.Fatal(err)
	}
	began(t, opts)
	for path, want := range map[string]fs.FileMode{opts.Dir: fs.ModeDir | 0o700, opts.socket(): fs.ModeSocket | 0o600, opts.configPath(): 0o600} {
		var stat unix.Stat_t
		fi, err := os.Lstat(path)
		if err != nil || fi.Mode() != want {
			t.Errorf("%s: %v, %v, want %v", path, fi.Mode(), err, want)
		}
		if err := unix.Lstat(path, &stat); err != nil || int(stat.Uid) != os.Geteuid() {
			t.Errorf("%s is user %d's, %v", path, stat.Uid, err)
		}
	}
}

// What a Consul that was killed has left is no obstacle, and no check of
// somebody's outlives a restart.
func TestConsulAfterACrash(t *testing.T) {
	opts := options(t)
	p := began(t, opts)
	if err := p.proc.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.done
	if !isSocket(opts.socket()) {
		t.Fatal("a killed Consul has left no socket: this test proves nothing")
	}
	check := filepath.Join(opts.Dir, "data", "checks", "0123")
	if err := os.MkdirAll(filepath.Dir(check), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(check, []byte(`{"Check":{"CheckID":"evil","Name":"evil","Status":"passing"},"ChkType":{"HTTP":"http://127.0.0.1:1/","Interval":1000000000},"Token":""}`), 0o600); err != nil {
		t.Fatal(err)
	}
	began(t, opts)
	var checks map[string]any
	if err := newConsulClient(opts.socket()).call(t.Context(), http.MethodGet, "/v1/agent/checks", &checks); err != nil || len(checks) > 0 {
		t.Errorf("checks %v, %v", checks, err)
	}
}

// A Consul that an older agent has left running, with its HTTP API on loopback, is
// restarted with the wanted configuration, and knows what it knew.
func TestConsulIsUpgraded(t *testing.T) {
	opts := options(t)
	ports, err := consultest.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	// The file of the older agent.
	data, _, err := opts.encodeConfig()
	if err != nil {
		t.Fatal(err)
	}
	var older map[string]any
	if err := json.Unmarshal(data, &older); err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{"addresses", "unix_sockets", "http_config", "enable_local_script_checks", "discard_check_output", "enable_debug"} {
		delete(older, field)
	}
	older["client_addr"] = "127.0.0.1"
	older["ports"].(map[string]any)["http"] = ports[0]
	if data, err = json.MarshalIndent(older, "", "  "); err != nil {
		t.Fatal(err)
	}
	if err := opts.writeConfig(data); err != nil {
		t.Fatal(err)
	}
	left, err := startConsul(opts.Binary, opts.configPath(), filepath.Join(opts.Dir, "consul.log"), filepath.Join(opts.Dir, "consul.pid"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopLeftover(opts.Dir) })
	loopback := "127.0.0.1:" + strconv.Itoa(ports[0])
	old, err := state.OpenConsul(state.ConsulConfig{Address: "http://" + loopback})
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	put := func(ctx context.Context) error {
		_, err := old.CompareAndSet(ctx, "socketplane/v1/kept", []byte("yes"), 0)
		return err
	}
	ctx := aMinute(t)
	for err = put(ctx); err != nil && ctx.Err() == nil; err = put(ctx) {
		if _, getErr := old.Get(ctx, "socketplane/v1/kept"); getErr == nil {
			err = nil
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}

	log := &loud{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- NewConsul(opts, slog.New(slog.NewTextHandler(log, nil))).Run(ctx) }()
	defer func() { cancel(); <-done }()
	untilLog(t, log, "adopted=false")
	if strings.Contains(log.String(), "adopted=true") {
		t.Error("it was taken over as it was")
	}
	<-left.done
	if err := newConsulClient(opts.socket()).awaitLeader(aMinute(t)); err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	if conn, err := net.Dial("tcp", loopback); err == nil {
		conn.Close()
		t.Errorf("%s answers", loopback)
	}
	now, err := state.OpenConsul(state.ConsulConfig{Address: socketURL(opts.socket())})
	if err != nil {
		t.Fatal(err)
	}
	defer now.Close()
	if e, err := now.Get(aMinute(t), "socketplane/v1/kept"); err != nil || string(e.Value) != "yes" {
		t.Errorf("%q, %v", e.Value, err)
	}
}

// A host is given back while an agent that was killed has left its Consul running.
func TestStopConsul(t *testing.T) {
	if err := StopConsul(t.TempDir()); err != nil {
		t.Errorf("where there is none: %v", err)
	}
	opts := options(t)
	for _, crashed := range []bool{false, true} {
		p := began(t, opts)
		if crashed {
			if err := p.proc.Kill(); err != nil {
				t.Fatal(err)
			}
			<-p.done
		}
		if err := StopConsul(filepath.Dir(opts.Dir)); err != nil {
			t.Error(err)
		}
		select {
		case <-p.done:
		case <-aMinute(t).Done():
			t.Error("it runs on")
		}
		if _, err := os.Lstat(opts.socket()); !os.IsNotExist(err) {
			t.Errorf("its socket: %v", err)
		}
	}
}

// One that runs with the wanted file, and that nobody can reach any more, is
// replaced; a file that says more than this agent knows is not the wanted one.
func TestConsulIsReplaced(t *testing.T) {
	opts := options(t)
	first := began(t, opts)
	if err := os.Remove(opts.socket()); err != nil {
		t.Fatal(err)
	}
	began(t, opts)
	<-first.done

	if _, same, err := opts.encodeConfig(); err != nil || !same {
		t.Fatalf("its own file: %v, %v", same, err)
	}
	data, err := os.ReadFile(opts.configPath())
	if err != nil {
		t.Fatal(err)
	}
	writeTest(t, opts.configPath(), strings.Replace(string(data), "{", `{"client_addr": "0.0.0.0",`, 1))
	if _, same, err := opts.encodeConfig(); err != nil || same {
		t.Errorf("another's file: %v, %v", same, err)
	}
}

func writeTest(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// All connections by the socket count as one client's in Consul: hundreds of
// watches at once leave room for a request.
func TestConsulManyConnections(t *testing.T) {
	opts := options(t)
	began(t, opts)
	client := func() *http.Client {
		return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", opts.socket())
		}}}
	}
	ctx, cancel := context.WithCancel(aMinute(t))
	defer cancel()
	const watches = 400 // twice Consul's default for one client
	var all sync.WaitGroup
	reached := make(chan int, watches)
	for range watches {
		all.Go(func() {
			// The first answer comes at once, the second when something changes.
			c := client()
			defer c.CloseIdleConnections()
			for _, path := range []string{"/v1/kv/a?keys", "/v1/kv/a?index=1000000&wait=1m"} {
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://consul"+path, nil)
				if err != nil {
					panic(err)
				}
				resp, err := c.Do(req)
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if path == "/v1/kv/a?keys" {
					reached <- resp.StatusCode
				}
			}
		})
	}
	for range watches {
		if code := <-reached; code != http.StatusNotFound { // there is no such key
			t.Fatalf("a watch is answered with %d", code)
		}
	}
	if leader, err := newConsulClient(opts.socket()).leader(aMinute(t)); err != nil || leader == "" {
		t.Errorf("beside %d watches: %q, %v", watches, leader, err)
	}
	cancel()
	all.Wait()
}

// Nothing is offered that makes Consul send requests of others, or changes how it
// works; what the agent and root's commands need is.
func TestConsulOffersLittle(t *testing.T) {
	opts := options(t)
	began(t, opts)
	c := newConsulClient(opts.socket())
	for _, refused := range []struct{ method, path string }{
		{http.MethodPut, "/v1/agent/check/register"},
		{http.MethodPut, "/v1/agent/service/register"},
		{http.MethodPut, "/v1/catalog/register"},
		{http.MethodPost, "/v1/operator/keyring"},
		{http.MethodGet, "/v1/operator/keyring"},
		{http.MethodPut, "/v1/event/fire/x"},
		{http.MethodPost, "/v1/query"},
		{http.MethodPut, "/v1/config"},
		{http.MethodPut, "/v1/acl/bootstrap"},
		{http.MethodPost, "/v1/peering/token"},
		{http.MethodPut, "/v1/agent/maintenance?enable=true"},
		{http.MethodGet, "/v1/agent/connect/ca/roots"},
		{http.MethodGet, "/v1/internal/ui/nodes"},
	} {
		err := c.call(t.Context(), refused.method, refused.path, nil)
		if err == nil || !strings.Contains(err.Error(), "with 403: Endpoint is blocked") {
			t.Errorf("%s %s: %v", refused.method, refused.path, err)
		}
	}
	for _, path := range []string{"/debug/pprof/", "/ui/"} {
		if err := c.call(t.Context(), http.MethodGet, path, nil); err == nil {
			t.Errorf("%s answers", path)
		}
	}
	for _, path := range []string{
		"/v1/agent/members", "/v1/agent/self", "/v1/agent/checks", "/v1/health/state/passing", "/v1/session/list",
		"/v1/operator/raft/configuration", "/v1/operator/autopilot/configuration", "/v1/catalog/nodes", "/v1/snapshot",
	} {
		if err := c.call(t.Context(), http.MethodGet, path, nil); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	var self struct {
		DebugConfig struct {
			EnableLocalScriptChecks, EnableRemoteScriptChecks, DisableRemoteExec, DiscardCheckOutput, EnableDebug bool
			DisableHTTPUnprintableCharFilter                                                                      bool
			HTTPAddrs, HTTPSAddrs, DNSAddrs, GRPCAddrs, GRPCTLSAddrs                                              []string
			SerfBindAddrWAN                                                                                       any
		}
	}
	if err := c.call(t.Context(), http.MethodGet, "/v1/agent/self", &self); err != nil {
		t.Fatal(err)
	}
	is := self.DebugConfig
	if is.EnableLocalScriptChecks || is.EnableRemoteScriptChecks || !is.DisableRemoteExec || !is.DiscardCheckOutput || is.EnableDebug ||
		is.DisableHTTPUnprintableCharFilter || len(is.HTTPSAddrs)+len(is.DNSAddrs)+len(is.GRPCAddrs)+len(is.GRPCTLSAddrs) > 0 ||
		len(is.HTTPAddrs) != 1 || is.HTTPAddrs[0] != socketURL(opts.socket()) {
		t.Errorf("%+v", is)
	}
}

// A state directory whose name a socket cannot have is refused before anything is
// done, with what to do.
func TestSocketPath(t *testing.T) {
	long := "/srv/" + strings.Repeat("x", 85)
	for path, want := range map[string]string{
		"/var/lib/socketplane/consul/http.sock":         "",
		"/srv/" + strings.Repeat("x", 102):              "",
		"/srv/" + strings.Repeat("x", 103):              "has 108 bytes, and a unix socket's path may have 107",
		"/var/lib/socket plane/consul/http.sock":        "socket plane",
		"/var/lib/{{GetPrivateIP}}/consul/http.sock":    "GetPrivateIP",
		"/var/lib/100%25/consul/http.sock":              "host.state_dir",
		"/var/lib/what?/consul/http.sock":               "host.state_dir",
		"/var/lib/\u00fcber/consul/http.sock":           "host.state_dir",
		filepath.Join(long, "consul", socketName) + "x": "host.state_dir",
	} {
		err := checkSocketPath(path)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", path, err, want)
		}
	}

	// In a keeper.
	binary, err := consultest.Binary()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), strings.Repeat("x", 100))
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(binary, filepath.Join(dir, "bin", "consul")); err != nil {
		t.Fatal(err)
	}
	k, err := NewKeeper(KeeperConfig{
		Dir: dir, HostID: id, HostName: "h", Ports: DefaultPorts(), SessionTTL: time.Second, Logger: slog.New(slog.DiscardHandler),
		Underlay: func(string) (Underlay, error) {
			return Underlay{Iface: "lo", Addr: netip.MustParseAddr("127.0.0.1")}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Bootstrap(t.Context(), api.BootstrapRequest{}); err == nil || !strings.Contains(err.Error(), "host.state_dir") {
		t.Errorf("bootstrap: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("it left %v, %v", left, err)
	}
}
