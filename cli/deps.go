package cli

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) depsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "deps",
		Short: "Show which programs this host needs and has",
		Long: `Shows every program that SocketPlane calls, the required version and the one found,
and how to get what is missing. Exits 1 if a required program is missing. Changes
nothing.`,
		Example: `  socketplane deps
  socketplane deps -o json`,
		Args: args(0, 0),
	}
	format := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		found := checkDeps(cmd.Context())
		missing := 0
		for _, d := range found {
			if !d.OK && !d.Optional {
				missing++
			}
		}
		if err := a.writeDeps(*format, found); err != nil {
			return err
		}
		if missing > 0 {
			return fmt.Errorf("%d needed programs are missing or too old; the table says how to get them", missing)
		}
		return nil
	}
	return cmd
}

// dependency is a required program and the version that was found.
type dependency struct {
	Name     string `json:"name"`
	For      string `json:"for"`
	Needed   string `json:"needed"` // oldest supported version; empty: any
	Found    string `json:"found"`  // version; empty: not found
	Optional bool   `json:"optional"`
	OK       bool   `json:"ok"`
	Remedy   string `json:"remedy,omitempty"`

	versionArgs []string
	apt, dnf    string // packages; empty: there is none
	dockers     bool   // only needed with Docker
	elsewhere   string // source of the program if there is no package
}

func dependencies() []dependency {
	list := []dependency{
		{Name: "ovs-vswitchd", For: "the switch", Needed: "2.13", versionArgs: []string{"--version"}, apt: "openvswitch-switch", dnf: "openvswitch"},
		{Name: "ovsdb-server", For: "the switch's database", Needed: "2.13", versionArgs: []string{"--version"}, apt: "openvswitch-switch", dnf: "openvswitch"},
		{Name: "ovs-ofctl", For: "programming flows", Needed: "2.13", versionArgs: []string{"--version"}, apt: "openvswitch-common", dnf: "openvswitch"},
		{Name: "iptables", For: "the way out through NAT", Needed: "1.8", versionArgs: []string{"--version"}, apt: "iptables", dnf: "iptables-nft"},
		{Name: "dockerd", For: "containers (not for connect)", Needed: "20.10", Optional: true, versionArgs: []string{"--version"}, apt: "docker.io", dnf: "moby-engine", dockers: true},
		{Name: "docker", For: "run, start, stop, restart, rm, attach", Needed: "20.10", Optional: true, versionArgs: []string{"--version"}, apt: "docker.io", dnf: "moby-engine", dockers: true},
		{Name: "runc", For: "containers (not for connect)", Needed: "1.0", Optional: true, versionArgs: []string{"--version"}, apt: "runc", dnf: "runc", dockers: true},
		{Name: "consul", For: "a cluster, where no Consul is given", Needed: "1.15", Optional: true, versionArgs: []string{"version"}, elsewhere: "https://developer.hashicorp.com/consul/install"},
	}
	if hasAppArmor("/sys", os.Getenv("container")) {
		list = append(list, dependency{
			Name: "apparmor_parser", For: "containers, since this kernel has AppArmor", Optional: true,
			versionArgs: []string{"--version"}, apt: "apparmor", dockers: true,
		})
	}
	return list
}

// hasAppArmor reports whether Docker applies an AppArmor profile to containers. If so, it
// has to load the profile, and starts no container without the program for it, which
// packages only recommend. hasAppArmor makes the same checks as containerd (pkg/apparmor,
// HostSupports). container is the variable that systemd-nspawn and similar programs set.
func hasAppArmor(sys, container string) bool {
	if _, err := os.Stat(sys + "/kernel/security/apparmor"); err != nil || container != "" {
		return false
	}
	enabled, err := os.ReadFile(sys + "/module/apparmor/parameters/enabled")
	return err == nil && strings.HasPrefix(string(enabled), "Y")
}

func checkDeps(ctx context.Context) []dependency {
	manager := packageManager()
	list := dependencies()
	for i := range list {
		d := &list[i]
		d.Found = foundVersion(ctx, d.Name, d.versionArgs)
		d.OK = d.Found != "" && !older(d.Found, d.Needed)
		if !d.OK {
			if d.Name == "docker" && list[i-1].OK { // dockerd is here: since Debian 13 its client is in a separate package
				d.apt = "docker-cli"
			}
			d.Remedy = d.remedy(manager)
		}
	}
	return list
}

// systemDirs returns system directories of programs that may be missing in a user's PATH.
func systemDirs() []string { return []string{"/usr/sbin/", "/sbin/", "/usr/local/sbin/"} }

// foundVersion returns the version of a program, "" if it is not found, or "unknown" if it
// does not report one.
func foundVersion(ctx context.Context, name string, versionArgs []string) string {
	path, err := exec.LookPath(name)
	for _, dir := range systemDirs() {
		if err != nil {
			path, err = exec.LookPath(dir + name)
		}
	}
	if err != nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, versionArgs...).Output()
	if err != nil {
		return "unknown"
	}
	return versionIn(string(out))
}

func versionIn(text string) string {
	if m := regexp.MustCompile(`\d+(\.\d+)+`).FindString(text); m != "" {
		return m
	}
	return "unknown"
}

// older compares versions number by number. It returns false if a number is unknown.
func older(found, needed string) bool {
	f, n := strings.Split(found, "."), strings.Split(needed, ".")
	for i := range n {
		if i >= len(f) {
			return true
		}
		have, err1 := strconv.Atoi(f[i])
		want, err2 := strconv.Atoi(n[i])
		if err1 != nil || err2 != nil {
			return false
		}
		if have != want {
			return have < want
		}
	}
	return false
}

func packageManager() string {
	for _, name := range []string{"apt-get", "dnf"} {
		if _, err := exec.LookPath(name); err == nil {
			return name
		}
	}
	return ""
}

func (d dependency) remedy(manager string) string {
	switch {
	case manager == "apt-get" && d.apt != "":
		return "apt-get install " + d.apt
	case manager == "dnf" && d.dnf != "":
		return "dnf install " + d.dnf
	case d.elsewhere != "":
		return d.elsewhere
	}
	return "install " + d.apt
}

func (a *app) writeDeps(format outputFormat, list []dependency) error {
	if format == outputJSON {
		return writeJSON(a.stdout, list)
	}
	rows := make([][]string, 0, len(list))
	for _, d := range list {
		state := "ok"
		switch {
		case d.OK:
		case d.Optional && d.Found == "":
			state = "missing, optional"
		case d.Found == "":
			state = "missing"
		default:
			state = "too old"
		}
		rows = append(rows, []string{d.Name, d.Needed, d.Found, state, d.For, d.Remedy})
	}
	return writeTable(a.stdout, []string{"PROGRAM", "NEEDED", "FOUND", "STATE", "FOR", "GET IT WITH"}, rows)
}
