package cli

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/socketplane/socketplane/agent/api"
)

func TestParseRun(t *testing.T) {
	base := func(change func(*runArgs)) runArgs {
		r := runArgs{network: "default", sigProxy: true}
		change(&r)
		return r
	}
	tests := []struct {
		name string
		argv string // words, split at blanks
		want runArgs
	}{
		{"image alone", "lab", base(func(r *runArgs) { r.create = []string{"--", "lab"} })},
		{"command", "lab sh -c true", base(func(r *runArgs) { r.create = []string{"--", "lab", "sh", "-c", "true"} })},
		{"-n NET", "-n web lab", base(func(r *runArgs) { r.network = "web"; r.create = []string{"--", "lab"} })},
		{"-nNET", "-nweb lab", base(func(r *runArgs) { r.network = "web"; r.create = []string{"--", "lab"} })},
		{"-n=NET", "-n=web lab", base(func(r *runArgs) { r.network = "web"; r.create = []string{"--", "lab"} })},
		{"--network NET", "--network web lab", base(func(r *runArgs) { r.network = "web"; r.create = []string{"--", "lab"} })},
		{"--network=NET", "--network=web lab", base(func(r *runArgs) { r.network = "web"; r.create = []string{"--", "lab"} })},
		{"ours after Docker's", "--rm -e A=1 -n web --ip 10.6.0.9 lab", base(func(r *runArgs) {
			r.network, r.ip, r.autoRemove = "web", "10.6.0.9", true
			r.create = []string{"--rm", "-e", "A=1", "--", "lab"}
		})},
		{"ours after the image is the container's", "lab -n web --ip x", base(func(r *runArgs) { r.create = []string{"--", "lab", "-n", "web", "--ip", "x"} })},
		{"--ip=ADDR", "--ip=10.6.0.9 lab", base(func(r *runArgs) { r.ip = "10.6.0.9"; r.create = []string{"--", "lab"} })},
		{"-it", "-it lab sh", base(func(r *runArgs) {
			r.interactive, r.tty = true, true
			r.create = []string{"-i", "-t", "--", "lab", "sh"}
		})},
		{"-dit", "-dit lab", base(func(r *runArgs) {
			r.detach, r.interactive, r.tty = true, true, true
			r.create = []string{"-i", "-t", "--attach", "stdout", "--attach", "stderr", "--", "lab"}
		})},
		{"-itv VOL", "-itv /a:/b lab", base(func(r *runArgs) {
			r.interactive, r.tty = true, true
			r.create = []string{"-i", "-t", "-v", "/a:/b", "--", "lab"}
		})},
		{"-itv/a:/b", "-itv/a:/b lab", base(func(r *runArgs) {
			r.interactive, r.tty = true, true
			r.create = []string{"-i", "-t", "-v/a:/b", "--", "lab"}
		})},
		{"-itn NET", "-itn web lab", base(func(r *runArgs) {
			r.network, r.interactive, r.tty = "web", true, true
			r.create = []string{"-i", "-t", "--", "lab"}
		})},
		{"-t=false", "-t=false -i=true lab", base(func(r *runArgs) {
			r.interactive = true
			r.create = []string{"-t=false", "-i=true", "--", "lab"}
		})},
		{"--rm=false", "--rm=false lab", base(func(r *runArgs) { r.create = []string{"--rm=false", "--", "lab"} })},
		{"--detach=false", "--detach=false lab", base(func(r *runArgs) { r.create = []string{"--", "lab"} })},
		{"a value that looks like a flag", "-e -n lab", base(func(r *runArgs) { r.create = []string{"-e", "-n", "--", "lab"} })},
		{"a value that looks like the image", "--entrypoint lab img", base(func(r *runArgs) { r.create = []string{"--entrypoint", "lab", "--", "img"} })},
		{"hostname is no boolean", "-h web lab", base(func(r *runArgs) { r.create = []string{"-h", "web", "--", "lab"} })},
		{"--name", "--name shop lab", base(func(r *runArgs) { r.name = "shop"; r.create = []string{"--name", "shop", "--", "lab"} })},
		{"--name=", "--name=shop lab", base(func(r *runArgs) { r.name = "shop"; r.create = []string{"--name=shop", "--", "lab"} })},
		{"--cidfile", "--cidfile /tmp/x lab", base(func(r *runArgs) { r.cidFile = "/tmp/x"; r.create = []string{"--cidfile", "/tmp/x", "--", "lab"} })},
		{"-a twice", "-a stdout --attach=stderr lab", base(func(r *runArgs) {
			r.attach = []string{"stdout", "stderr"}
			r.create = []string{"-a", "stdout", "--attach=stderr", "--", "lab"}
		})},
		{"not for create", "--sig-proxy=false --detach-keys ctrl-x -d lab", base(func(r *runArgs) {
			r.sigProxy, r.detach, r.detachKeys = false, true, "ctrl-x"
			r.create = []string{"--attach", "stdout", "--attach", "stderr", "--", "lab"}
		})},
		{"--", "--rm -- -image", base(func(r *runArgs) { r.autoRemove = true; r.create = []string{"--rm", "--", "-image"} })},
		{"a lone dash is no flag", "- x", base(func(r *runArgs) { r.create = []string{"--", "-", "x"} })},
		{"unknown flags take a value", "--brand-new 7 --other=8 lab", base(func(r *runArgs) {
			r.create = []string{"--brand-new", "7", "--other=8", "--", "lab"}
		})},
		{"all booleans", "--disable-content-trust --init --no-healthcheck --oom-kill-disable --privileged -q --quiet --read-only --use-api-socket lab", base(func(r *runArgs) {
			r.create = strings.Fields("--disable-content-trust --init --no-healthcheck --oom-kill-disable --privileged -q --quiet --read-only --use-api-socket -- lab")
		})},
		{"published ports are ours", "-p 8080:80 -itp=127.0.0.1:5300:53/udp --publish 90 -P lab", base(func(r *runArgs) {
			r.interactive, r.tty, r.publishAll = true, true, true
			r.ports = []api.PortMapping{
				{Proto: "tcp", HostPort: 8080, ContainerPort: 80},
				{Proto: "udp", HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 5300, ContainerPort: 53},
				{Proto: "tcp", ContainerPort: 90},
			}
			r.create = []string{"-i", "-t", "--", "lab"}
		})},
		{"our globals", "--debug --socket /s --config=/c lab", base(func(r *runArgs) {
			r.debug, r.socket, r.config = true, "/s", "/c"
			r.create = []string{"--", "lab"}
		})},
		{"--help", "--rm --help", base(func(r *runArgs) { r.help, r.autoRemove = true, true })},
		{"--help after the image is the container's", "lab --help", base(func(r *runArgs) { r.create = []string{"--", "lab", "--help"} })},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseRun(strings.Fields(tt.argv))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(runArgs{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseRunRefuses(t *testing.T) {
	tests := []struct{ argv, says string }{
		{"", "no image"},
		{"--rm", "no image"},
		{"-n", "-n needs a value"},
		{"--ip", "--ip needs a value"},
		{"--ip= lab", "--ip needs an address"},
		{"--ip fe80::1 lab", "not an IPv4 address"},
		{"-n a;b lab", "network name"},
		{"-n= lab", "network name"},
		{"--network host lab", "reserved by Docker"},
		{"--network container:x lab", "network name"},
		{"--net web lab", "-n NETWORK"},
		{"--net=web lab", "-n NETWORK"},
		{"-p", "-p needs a value"},
		{"-p x lab", "8080:80"},
		{"-p 80:80/sctp lab", "neither tcp nor udp"},
		{"-p 80:80/x lab", "8080:80"},
		{"-p 70000:80 lab", "hostPort"},
		{"-p 80:0 lab", "1 to 65535"},
		{"-p 8000-8010:80 lab", "one port of the host"},
		{"-p 8000-8001:80-82 lab", "ranges"},
		{"-p 1-1000 lab", "256 is the most"},
		{"-p 1000-1 lab", "containerPort"},
		{"-p [::1]:80:80 lab", "not IPv4"},
		{"-p fe80::1%eth0:80:80 lab", "IP address"},
		{"-p 224.0.0.1:80:80 lab", "cannot be a host's"},
		{"-p 1.2.3:80:80 lab", "IP address"},
		{"-p target=80,x=1 lab", "one of target"},
		{"-p published=80 lab", "no port"},
		{"-P=maybe lab", "true or false"},
		{"--runtime runc lab", "runtime"},
		{"--mac-address 02:42:00:00:00:01 lab", "--ip"},
		{"--link a:b lab", "--link"},
		{"--network-alias a lab", "Docker's own"},
		{"--ip6 fd00::1 lab", "IPv4"},
		{"-d -a stdout lab", "exclude"},
		{"--rm=perhaps lab", "true or false"},
		{"--= lab", "not a flag"},
	}
	for _, tt := range tests {
		t.Run(tt.argv, func(t *testing.T) {
			_, err := parseRun(strings.Fields(tt.argv))
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("error %v, want one that says %q", err, tt.says)
			}
			if code := exitCode(ours(err)); code != exitRun {
				t.Errorf("exit code %d, want %d", code, exitRun)
			}
		})
	}
}

// FuzzParseRun: whatever is typed, the words of the image and its command reach
// Docker unchanged, and no flag of ours does.
func FuzzParseRun(f *testing.F) {
	f.Add("-itn\x1fweb\x1flab\x1fsh")
	f.Add("--rm\x1f-e\x1fA=1\x1f--\x1f-x")
	f.Fuzz(func(t *testing.T, words string) {
		argv := strings.Split(words, "\x1f")
		r, err := parseRun(argv)
		if err != nil || r.help {
			return
		}
		at := -1
		for i, w := range r.create {
			if w == "--" {
				at = i
				break
			}
		}
		if at < 0 || len(r.create) == at+1 {
			t.Fatalf("%q: no image in %q", argv, r.create)
		}
		tail := r.create[at+1:]
		if len(tail) > len(argv) {
			t.Fatalf("%q grew to %q", argv, tail)
		}
		if r.network == "" {
			t.Fatalf("%q: no network", argv)
		}
	})
}

func TestStartFailureCode(t *testing.T) {
	for message, want := range map[string]int{
		`exec: "x": executable file not found in $PATH`: 127,
		`stat /x: no such file or directory`:            127,
		`exec: "/tmp": permission denied`:               126,
		`exec /tmp: is a directory`:                     126,
		`error running hook #0: exit status 1`:          125,
		`error running hook #0: exit status 1, stdout: , stderr: socketplane: connect: no such file or directory`: 125,
	} {
		if got := startFailureCode(message); got != want {
			t.Errorf("%s: %d, want %d", message, got, want)
		}
	}
}
