package setup

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const installScript = "../../scripts/install.sh"

// script runs install.sh, from its standard input as a pipe would, and gives all
// it said.
func script(t *testing.T, env []string, args ...string) (string, error) {
	t.Helper()
	f, err := os.Open(installScript)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command("sh", append([]string{"-s", "--"}, args...)...)
	cmd.Stdin = f
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// The program that install.sh is to run is one that tells how it was called.
func fromDirectory(t *testing.T, sums string) string {
	t.Helper()
	dir := t.TempDir()
	const program = "#!/bin/sh\necho called: \"$*\" BOOTSTRAP=$BOOTSTRAP\nexit 7\n"
	if err := os.WriteFile(filepath.Join(dir, "socketplane"), []byte(program), 0o644); err != nil {
		t.Fatal(err)
	}
	if sums != "" {
		if err := os.WriteFile(filepath.Join(dir, "SHA256SUMS"), []byte(sums), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestInstallScriptRunsTheProgram(t *testing.T) {
	dir := fromDirectory(t, "")
	out, err := script(t, []string{"SOCKETPLANE_FROM=" + dir, "BOOTSTRAP=true"}, "--token-file", "/root/a b")
	want := "called: install --unattended --from " + dir + " --token-file /root/a b BOOTSTRAP=true\n"
	if out != want {
		t.Errorf("said %q, want %q", out, want)
	}
	exit, ok := err.(*exec.ExitError) //nolint:errorlint // as exec gives it
	if !ok || exit.ExitCode() != 7 {
		t.Errorf("ended with %v, want the program's 7", err)
	}
}

func TestInstallScriptRunsNothingUnverified(t *testing.T) {
	for _, tc := range []struct {
		name string
		env  []string
		want string
	}{
		{"another checksum", []string{"SOCKETPLANE_FROM=" + fromDirectory(t, strings.Repeat("0", 64)+"  socketplane\n")}, "it is not used"},
		{"no checksum of it", []string{"SOCKETPLANE_FROM=" + fromDirectory(t, strings.Repeat("0", 64)+"  other\n")}, "does not name socketplane"},
		{"an empty directory", []string{"SOCKETPLANE_FROM=" + t.TempDir()}, "there is no socketplane in it"},
		{"no release", nil, "knows no checksum"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, err := script(t, tc.env)
			if err == nil || strings.Contains(out, "called") || !strings.Contains(out, tc.want) {
				t.Errorf("said %q (%v), want %q", out, err, tc.want)
			}
		})
	}
}

// A release's install.sh runs what it has downloaded when the checksum is right, and
// only over https.
func TestInstallScriptOfARelease(t *testing.T) {
	program := []byte("#!/bin/sh\necho called: \"$*\"\n")
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/socketplane_linux_") {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(program)
	}))
	defer server.Close()
	authority := filepath.Join(t.TempDir(), "ca.pem")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(authority, cert, 0o644); err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(program)
	right := hex.EncodeToString(digest[:])
	for _, tc := range []struct{ name, url, sum, want string }{
		{"right", server.URL, right, "called: install --unattended --iface eth1\n"},
		{"another checksum", server.URL, strings.Repeat("0", 64), "it is not used"},
		{"not there", server.URL + "/elsewhere", right, "could not be fetched"},
		{"http", "http://" + server.Listener.Addr().String(), right, "is not https"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			data, err := os.ReadFile(installScript)
			if err != nil {
				t.Fatal(err)
			}
			text := strings.NewReplacer("version=''\n", "version=v9\n",
				"sum_amd64=''\n", "sum_amd64="+tc.sum+"\n", "sum_arm64=''\n", "sum_arm64="+tc.sum+"\n").Replace(string(data))
			cmd := exec.Command("sh", "-s", "--", "--iface", "eth1")
			cmd.Stdin = strings.NewReader(text)
			cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "SOCKETPLANE_URL=" + tc.url, "CURL_CA_BUNDLE=" + authority}
			out, err := cmd.CombinedOutput()
			if !strings.Contains(string(out), tc.want) || (err == nil) != (tc.name == "right") {
				t.Errorf("said %q (%v), want %q", out, err, tc.want)
			}
		})
	}
}

// Cut off anywhere, the script does nothing: all of it is a function, called at
// the end.
func TestInstallScriptCutOff(t *testing.T) {
	data, err := os.ReadFile(installScript)
	if err != nil {
		t.Fatal(err)
	}
	dir := fromDirectory(t, "")
	for at := 0; at < len(data)-len("main \"$@\"\n"); at += 97 {
		cmd := exec.Command("sh")
		cmd.Stdin = strings.NewReader(string(data[:at]))
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "SOCKETPLANE_FROM=" + dir}
		if out, _ := cmd.CombinedOutput(); strings.Contains(string(out), "called") {
			t.Fatalf("cut off at %d it ran the program: %s", at, out)
		}
	}
}

// The Consul that is downloaded is the one that the tests run with.
func TestConsulVersion(t *testing.T) {
	data, err := os.ReadFile("../../scripts/consul/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if want := "require github.com/hashicorp/consul v" + consulVersion + "\n"; !strings.Contains(string(data), want) {
		t.Errorf("scripts/consul/go.mod does not hold %q", want)
	}
}

// The module is loaded at each boot where the kernel has it, and the larger buffers
// are for a switch in user space.
func TestKernelWithOpenvswitch(t *testing.T) {
	s := &scripted{}
	h, _ := newHost(t, s)
	write(t, h, "/sys/module/openvswitch/refcnt", "1")
	if err := h.Run(t.Context(), "install", []Step{h.kernel()}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, h, modulesFile); got != modulesText {
		t.Errorf("%s is %q", modulesFile, got)
	}
	if strings.Contains(read(t, h, sysctlFile), "rmem_default") {
		t.Error("buffers were enlarged for a switch in the kernel")
	}
	if len(s.ran) != 0 {
		t.Errorf("ran %q", s.ran)
	}
}
