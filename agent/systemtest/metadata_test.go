package systemtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// metadataAddr is where most clouds answer with the user-data of the host that asks;
// metadataAddrs are that, and where Azure, Alibaba and Oracle do.
const metadataAddr = "169.254.169.254"

var metadataAddrs = []string{metadataAddr, "168.63.129.16", "100.100.100.200", "192.0.0.192"}

// Promise: a container does not reach the cloud's metadata, which hold the token,
// unless its network was made with --allow-metadata and the settings of its host
// allow that; the host itself does. It stays so while the agent restarts and when
// the rules were lost.
func TestMetadata(t *testing.T) {
	serveMetadata(t)
	makeNetwork(t, 1, "shut", "10.91.0.0/24")
	sp(t, 1, "network", "create", "open", "10.92.0.0/24", "--allow-metadata")
	t.Cleanup(func() { deleteNetwork(t, 1, "open") })
	if shown := sp(t, 2, "network", "info", "open", "-o", "json"); !strings.Contains(shown, `"allow_metadata": true`) {
		t.Errorf("another host shows: %s", shown)
	}
	if made := sp(t, 1, "network", "info", "open"); !strings.Contains(made, "allow_metadata") {
		t.Errorf("network info does not say what this host's settings need: %s", made)
	}
	if r := try(t, 2, "socketplane", "network", "create", "shut", "--allow-metadata"); r.code != 1 || !strings.Contains(r.stderr, "exists") {
		t.Errorf("a network was opened that exists: %d %s", r.code, r.stderr)
	}
	shut1, open1 := runContainer(t, 1, "shut", "shut1"), runContainer(t, 1, "open", "open1")
	shut2, open2 := runContainer(t, 2, "shut", "shut2"), runContainer(t, 2, "open", "open2")

	ask := func(addr string) []string {
		return []string{"timeout", "2", "wget", "-q", "-O", "-", "http://" + addr + "/user_data"}
	}
	for _, c := range []container{open1, open2} {
		named(t, c.host, `network "open"`, "allow_metadata")
		if r := c.exec(t, ask(metadataAddr)...); r.code == 0 || strings.Contains(r.stdout, "token") {
			t.Errorf("%s reads the metadata though the settings of its host do not allow it: %s", c.name, r.stdout)
		}
	}
	const allow = "SOCKETPLANE_NETWORK_ALLOW_METADATA=open"
	t.Cleanup(func() {
		for k := 1; k <= 2; k++ {
			remove(t, k, fmt.Sprint("open", k))
			restartAgent(t, k)
		}
	})
	restartAgent(t, 1, allow)
	restartAgent(t, 2, allow)
	check := func(when string) {
		t.Helper()
		for _, c := range []container{open1, open2} {
			for _, addr := range metadataAddrs {
				eventually(t, when+": "+c.name+" reads the metadata at "+addr, func() error {
					if r := c.exec(t, ask(addr)...); r.code != 0 || !strings.Contains(r.stdout, "token") {
						return fmt.Errorf("%d %s %s", r.code, r.stdout, r.stderr)
					}
					return nil
				})
			}
		}
		for _, c := range []container{shut1, shut2} {
			eventually(t, when+": "+c.name+" reaches the outside", func() error { return c.pings(t, "203.0.113.1") })
			var wg sync.WaitGroup
			for _, addr := range metadataAddrs {
				wg.Go(func() {
					if r := c.exec(t, ask(addr)...); r.code == 0 || strings.Contains(r.stdout, "token") {
						t.Errorf("%s: %s reads the metadata at %s: %s", when, c.name, addr, r.stdout)
					}
					if c.pings(t, addr) == nil {
						t.Errorf("%s: %s pings the metadata server at %s", when, c.name, addr)
					}
				})
			}
			wg.Wait()
		}
		if out := must(t, 1, append([]string{"busybox"}, ask(metadataAddr)...)...); !strings.Contains(out, "token") {
			t.Errorf("%s: the host reads %q", when, out)
		}
	}
	check("at first")
	must(t, 1, "iptables", "-t", "raw", "-F", "SOCKETPLANE-RAW")
	restartAgent(t, 1, allow)
	check("after the agent's restart without its rules")
}

// serveMetadata has the outside answer as a cloud does. The hosts' default route
// leads there.
func serveMetadata(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "user_data"), []byte("#cloud-config\n# token: secret\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	outside := func(argv ...string) *exec.Cmd {
		return exec.Command("nsenter", append([]string{"--net=" + outsideNamespace, "--"}, argv...)...)
	}
	for _, addr := range metadataAddrs {
		if out, err := outside("ip", "addr", "add", addr+"/32", "dev", "lo").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		t.Cleanup(func() {
			if out, err := outside("ip", "addr", "del", addr+"/32", "dev", "lo").CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
		server := outside("busybox", "httpd", "-f", "-p", addr+":80", "-h", dir)
		server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = server.Process.Kill() // it serves for ever
			_ = server.Wait()
		})
	}
}
