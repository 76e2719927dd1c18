// Compatibility writes what a run of `make test-matrix` showed into
// docs/compatibility.md, between two marks: the versions of the programs, which it reads
// from the roots in bin/, and the verdict of each test, from testrun's results.
//
//	compatibility PAGE RESULTS...
package main

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	begin = "<!-- written by make test-matrix: begin -->\n"
	end   = "<!-- written by make test-matrix: end -->\n"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: compatibility PAGE RESULTS...")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2:], "bin", when()); err != nil {
		fmt.Fprintln(os.Stderr, "compatibility:", err)
		os.Exit(1)
	}
}

// when says of which day and commit a run is.
func when() string {
	commit, err := exec.Command("git", "describe", "--tags", "--always", "--dirty").Output()
	if err != nil {
		commit = []byte("unknown")
	}
	return time.Now().UTC().Format(time.DateOnly) + ", commit " + strings.TrimSpace(string(commit))
}

func run(page string, results []string, roots, when string) error {
	text, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(text, []byte(begin))
	_, after, ok2 := bytes.Cut(rest, []byte(end))
	if !ok || !ok2 {
		return fmt.Errorf("%s lacks the lines %q and %q", page, strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	var all []verdict
	for _, path := range results {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		list, err := parse(string(data))
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, list...)
	}
	table, err := write(all, roots, when)
	if err != nil {
		return err
	}
	return os.WriteFile(page, slices.Concat(before, []byte(begin), []byte(table), []byte(end), after), 0o644) //nolint:gosec // a page of the documentation
}

// verdict is a line of testrun's results.
type verdict struct{ env, test, said string }

func parse(text string) ([]verdict, error) {
	var all []verdict
	for line := range strings.Lines(text) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) != 4 {
			return nil, fmt.Errorf("%q is no line of results", line)
		}
		all = append(all, verdict{f[0], f[2], f[3]})
	}
	return all, nil
}

// kind is a program of which other versions are tested.
type kind struct {
	name     string   // of debian-root.sh
	env      string   // the variable that names the version
	title    string   // for people
	packages []string // the first is the program itself
}

var kinds = []kind{
	{"docker", "SOCKETPLANE_LAB_DOCKER", "Docker", []string{"docker.io", "containerd", "runc", "iptables", "docker-compose"}},
	{"podman", "SOCKETPLANE_LAB_PODMAN", "Podman", []string{"podman", "netavark", "conmon", "runc"}},
	{"ovs", "SOCKETPLANE_TEST_OVS", "Open vSwitch", []string{"openvswitch-switch"}},
}

var suites = map[string]string{"trixie": "Debian 13", "sid": "Debian sid"}

// write makes the table, a row for each environment, and lists the tests below it.
func write(all []verdict, roots, when string) (string, error) {
	byEnv := map[string][]verdict{}
	var envs []string
	for _, v := range all {
		if byEnv[v.env] == nil {
			envs = append(envs, v.env)
		}
		byEnv[v.env] = append(byEnv[v.env], v)
	}
	slices.Sort(envs)
	var table strings.Builder
	var lists []string              // what passed and failed, each once
	behind := map[string][]string{} // the programs for which a list is true
	fmt.Fprintf(&table, "\nRun on %s:\n\n| program | from | with | tests |\n|---|---|---|---|\n", when)
	for _, env := range envs {
		titles, from, with, err := describe(env, roots)
		if err != nil {
			return "", err
		}
		var passed, flaky, failed []string
		for _, v := range byEnv[env] {
			name := "`" + v.test + "`"
			switch v.said {
			case "passed":
				passed = append(passed, name)
			case "flaky":
				flaky = append(flaky, name)
			default:
				failed = append(failed, name)
			}
		}
		said := fmt.Sprintf("%d passed", len(passed)+len(flaky))
		if len(flaky) > 0 {
			said += fmt.Sprintf(", %d of them the second time", len(flaky))
		}
		if len(failed) > 0 {
			said += fmt.Sprintf(", **%d failed**", len(failed))
		}
		fmt.Fprintf(&table, "| %s | %s | %s | %s |\n", titles, from, cmp.Or(with, "-"), said)
		var list strings.Builder
		for _, l := range []struct {
			what  string
			tests []string
		}{{"passed", passed}, {"passed the second time", flaky}, {"failed", failed}} {
			if len(l.tests) > 0 {
				slices.Sort(l.tests)
				fmt.Fprintf(&list, "- %s: %s\n", l.what, strings.Join(l.tests, ", "))
			}
		}
		if behind[list.String()] == nil {
			lists = append(lists, list.String())
		}
		behind[list.String()] = append(behind[list.String()], titles)
	}
	for _, list := range lists {
		fmt.Fprintf(&table, "\n%s:\n\n%s", strings.Join(behind[list], "; "), list)
	}
	return table.String() + "\n", nil
}

// describe says which versions of which programs an environment stands for.
func describe(env, roots string) (titles, from, with string, err error) {
	var title, suite, more, others []string
	for word := range strings.FieldsSeq(env) {
		name, version, _ := strings.Cut(word, "=")
		i := slices.IndexFunc(kinds, func(k kind) bool { return k.env == name })
		if i < 0 {
			others = append(others, word)
			continue
		}
		k := kinds[i]
		found, err := filepath.Glob(filepath.Join(roots, "root-*-"+k.name+"-"+version))
		if err != nil || len(found) != 1 {
			return "", "", "", fmt.Errorf("there is no one root for %s %s in %s: %v", k.name, version, roots, found)
		}
		versions, err := installed(found[0], k.packages)
		if err != nil {
			return "", "", "", err
		}
		title = append(title, k.title+" "+versions[0])
		of := strings.Split(filepath.Base(found[0]), "-")[1]
		if s := cmp.Or(suites[of], of); !slices.Contains(suite, s) {
			suite = append(suite, s)
		}
		for j, p := range k.packages[1:] {
			if one := p + " " + versions[j+1]; !slices.Contains(more, one) { // both roots may have it
				more = append(more, one)
			}
		}
	}
	if len(title) == 0 {
		title, suite = []string{"the machine's own"}, []string{"-"}
	}
	title = append(title, others...)
	return strings.Join(title, ", "), strings.Join(suite, ", "), strings.Join(more, ", "), nil
}

// installed gives the versions of packages in a root, as their makers count them.
func installed(root string, packages []string) ([]string, error) {
	var all []string
	for _, p := range packages {
		out, err := exec.Command("dpkg-query", "--admindir="+filepath.Join(root, "var/lib/dpkg"), "-W", "-f", "${Version}", p).Output()
		if err != nil {
			return nil, fmt.Errorf("version of %s in %s: %w", p, root, err)
		}
		all = append(all, upstream(string(out)))
	}
	return all, nil
}

// upstream cuts what Debian adds to a version: 1:28.5.2+dfsg4-1 is 28.5.2.
func upstream(version string) string {
	if _, rest, ok := strings.Cut(version, ":"); ok {
		version = rest
	}
	if i := strings.IndexAny(version, "+~-"); i >= 0 {
		version = version[:i]
	}
	return version
}
