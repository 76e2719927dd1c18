package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// event is one line of `go test -json` (cmd/test2json).
type event struct {
	Action     string
	Package    string
	ImportPath string // of build output
	Test       string
	Output     string
	Elapsed    float64 // seconds
}

// failure is the failure of a test, a package or a whole `go test`.
type failure struct {
	name   string
	test   test
	output string
	// rerun is true if the test failed and nothing worse happened; see packageState.rerun.
	rerun bool
}

// test is a top-level test, which is the smallest unit that can run alone.
type test struct {
	group string // the arguments of go test, joined by NUL
	pkg   string
	name  string
}

// packageState is what the output of a package has shown so far.
type packageState struct {
	failed  bool // a test failed or was skipped
	raced   bool // the race detector has reported
	orderly bool // package testing printed FAIL: every test ran, and none ended the process
}

// rerun reports whether the failed tests of a completed package may run again. A data race
// is a bug whenever it shows. After a panic or a timeout, other tests did not run at all.
func (p packageState) rerun() bool { return p.orderly && !p.raced }

// tally is the verdict so far.
type tally struct {
	out    io.Writer
	passed int
	failed []failure
	flaky  []failure
	ended  []test // top-level tests that passed at the first attempt, in order

	// State of the current group:
	group    []string
	env      string                   // its additions to the environment
	loud     bool                     // print output immediately
	said     map[string][]string      // output by package and test, until the test or package ends
	packages map[string]*packageState // by import path
	started  bool                     // a test has started
}

func newTally(out io.Writer) *tally { return &tally{out: out} }

// run runs one `go test`. If that exits with 1 because a test failed, run does not count
// another failure.
func (t *tally) run(args []string) {
	t.group = args
	env, args := environment(args)
	t.env = strings.Join(env, " ")
	t.loud = slices.Contains(args, "-v")
	t.said = map[string][]string{}
	t.packages = map[string]*packageState{} // empty, because a group may test a package again
	before := len(t.failed)
	err := t.goTest(env, args)
	var exit *exec.ExitError
	if err == nil || (errors.As(err, &exit) && len(t.failed) > before) {
		return
	}
	name := strings.TrimSpace(t.env + " go test " + strings.Join(args, " "))
	fmt.Fprintf(t.out, "testrun: %s: %v\n", name, err)
	t.failed = append(t.failed, failure{name: name})
}

// environment splits a group into its environment and its arguments.
func environment(group []string) (env, args []string) {
	n := 0
	for n < len(group) && !strings.HasPrefix(group[n], "-") && strings.Contains(group[n], "=") {
		n++
	}
	return group[:n], group[n:]
}

func (t *tally) goTest(env, args []string) error {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := t.read(stdout); err != nil {
		_ = cmd.Process.Kill() // no one reads its output any more; the error below says why
		_ = cmd.Wait()
		return err
	}
	return cmd.Wait()
}

func (t *tally) read(r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Fprintln(t.out, lines.Text())
			continue
		}
		t.event(e)
	}
	return lines.Err()
}

func (t *tally) event(e event) {
	if e.Action == "build-output" {
		fmt.Fprint(t.out, e.Output)
		return
	}
	if e.Test == "" {
		t.packageEvent(e)
		return
	}
	key := e.Package + " " + e.Test
	switch e.Action {
	case "run":
		t.started = true
	case "output":
		t.output(e)
		return
	case "pass":
		t.passed++
		if !strings.Contains(e.Test, "/") {
			t.ended = append(t.ended, test{group: t.groupKey(), pkg: e.Package, name: e.Test})
		}
	case "skip":
		t.fail(e, "(skipped)")
		// A skip depends on the machine, so a rerun would not help.
		t.failed[len(t.failed)-1].test = test{}
	case "fail":
		t.fail(e, "")
	default: // pause, cont, bench
		return
	}
	if e.Action != "run" {
		delete(t.said, key)
	}
}

// packageEvent judges a package when all its tests have ended.
func (t *tally) packageEvent(e event) {
	switch e.Action {
	case "output":
		t.output(e)
	case "pass":
		t.result("ok  ", e)
		delete(t.said, e.Package+" ")
	case "fail":
		pkg := t.of(e.Package)
		t.unfinished(e.Package)
		// A panic, a failed build or TestMain: no failed test explains the failure.
		if !pkg.failed {
			t.fail(e, "")
		}
		for i := range t.failed {
			if f := &t.failed[i]; f.test.name != "" && f.test.pkg == e.Package && f.test.group == t.groupKey() {
				f.rerun = pkg.rerun()
			}
		}
		t.result("FAIL", e)
		delete(t.said, e.Package+" ")
	}
}

func (t *tally) output(e event) {
	pkg := t.of(e.Package)
	switch {
	case e.Test == "" && e.Output == "FAIL\n":
		pkg.orderly = true
	case strings.Contains(e.Output, "WARNING: DATA RACE"), strings.Contains(e.Output, "race detected during execution of test"):
		pkg.raced = true
	}
	if t.loud {
		fmt.Fprint(t.out, e.Output)
	}
	key := e.Package + " " + e.Test
	t.said[key] = append(t.said[key], e.Output)
}

// unfinished fails the tests that started but did not end, because their process died.
func (t *tally) unfinished(pkg string) {
	for _, key := range slices.Sorted(maps.Keys(t.said)) {
		if name, ok := strings.CutPrefix(key, pkg+" "); ok && name != "" {
			t.fail(event{Package: pkg, Test: name}, "(did not end)")
			delete(t.said, key)
		}
	}
}

func (t *tally) result(verdict string, e event) {
	note := ""
	if verdict == "ok  " && t.of(e.Package).failed {
		verdict, note = "FAIL", " (skipped tests)"
	}
	fmt.Fprintf(t.out, "%s %s %.1fs%s\n", verdict, strings.TrimSpace(e.Package+" "+t.env), e.Elapsed, note)
}

// fail records a failure and prints its output.
func (t *tally) fail(e event, why string) {
	f := failure{
		name:   strings.Join(strings.Fields(e.Package+" "+e.Test+" "+t.env+" "+why), " "),
		output: strings.Join(t.said[e.Package+" "+e.Test], ""),
	}
	top, _, _ := strings.Cut(e.Test, "/")
	f.test = test{group: t.groupKey(), pkg: e.Package, name: top}
	t.failed = append(t.failed, f)
	t.of(e.Package).failed = true
	fmt.Fprintf(t.out, "--- %s\n", f.name)
	if !t.loud {
		fmt.Fprint(t.out, f.output)
	}
}

func (t *tally) of(pkg string) *packageState {
	if t.packages[pkg] == nil {
		t.packages[pkg] = &packageState{}
	}
	return t.packages[pkg]
}

func (t *tally) groupKey() string { return strings.Join(t.group, "\x00") }

// results returns the verdict of each top-level test, one line each. For a failure that is
// not a test's (a build, TestMain, a skip), the test's name is the name of the failure.
func (t *tally) results() []byte {
	var lines []string
	line := func(one test, verdict string) {
		env, _ := environment(strings.Split(one.group, "\x00"))
		l := strings.Join([]string{strings.Join(env, " "), one.pkg, one.name, verdict}, "\t")
		if !slices.Contains(lines, l) { // failures of subtests are failures of their test
			lines = append(lines, l)
		}
	}
	for _, one := range t.ended {
		line(one, "passed")
	}
	for _, f := range t.flaky {
		line(f.test, "flaky")
	}
	for _, f := range t.failed {
		if f.test.name == "" {
			f.test.name = f.name
		}
		line(f.test, "failed")
	}
	return []byte(strings.Join(lines, "\n") + "\n")
}
