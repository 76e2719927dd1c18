package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	// maxRerunTests bounds the number of different tests to rerun. More failures are no
	// accident.
	maxRerunTests = 5
	// maxReruns bounds the attempts to rerun one test. The first verdict counts. The
	// second attempt is for a test that did not start in the first, for example because
	// TestMain failed.
	maxReruns = 2
)

// rerun runs each failed test again, alone. A test that passes becomes flaky, and one that
// fails again fails the run. Some failures are never rerun and fail the run: a data race,
// a panic, a timeout, a build failure, a skip, and a package that failed without a failed
// test. If there is such a failure, rerun runs nothing, because the run has failed anyway.
func (t *tally) rerun() {
	var tests []test
	for _, f := range t.failed {
		if !f.rerun {
			fmt.Fprintf(t.out, "\nno test runs again: %s has failed the run\n", f.name)
			return
		}
		if !slices.Contains(tests, f.test) {
			tests = append(tests, f.test)
		}
	}
	if len(tests) > maxRerunTests {
		fmt.Fprintf(t.out, "\nno test runs again: %d failed, and more than %d are no accident\n", len(tests), maxRerunTests)
		return
	}
	for i, one := range tests {
		fmt.Fprintf(t.out, "\nagain, alone (%d of %d): %s %s\n", i+1, len(tests), one.pkg, one.name)
		if t.passesAgain(one) {
			t.forgive(one)
		}
	}
}

// passesAgain runs a test alone and reports whether it passed. The package must pass too:
// a test did not pass if TestMain complains about leftovers.
func (t *tally) passesAgain(one test) bool {
	args := rerunArgs(strings.Split(one.group, "\x00"), one.pkg, one.name)
	for range maxReruns {
		again := newTally(t.out)
		again.run(args)
		if again.started {
			return len(again.failed) == 0 && again.passed > 0
		}
	}
	return false
}

// forgive turns the failures of a test into flaky ones.
func (t *tally) forgive(one test) {
	var remain []failure
	for _, f := range t.failed {
		if f.test != one {
			remain = append(remain, f)
			continue
		}
		t.flaky = append(t.flaky, f)
		t.passed++
	}
	t.failed = remain
}

// keepFlaky prints the flaky tests, if any, with the output of their failures, and writes
// the same to the file. It returns false if it cannot write the file.
func (t *tally) keepFlaky(path string) bool {
	if len(t.flaky) == 0 {
		return true
	}
	var report strings.Builder
	var tests []test
	for _, f := range t.flaky {
		if !slices.Contains(tests, f.test) {
			tests = append(tests, f.test)
		}
		fmt.Fprintf(&report, "FLAKY: %s failed, and passed when it ran again alone. It said:\n%s\n", f.name, f.output)
	}
	fmt.Fprintf(t.out, "\n%s%d flaky, kept in %s\n", report.String(), len(tests), path)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte(report.String()), 0o644) //nolint:gosec // for whoever reads the run
	}
	if err != nil {
		fmt.Fprintln(t.out, "testrun:", err)
	}
	return err == nil
}

// rerunArgs returns a group's arguments with one package and one test in place of its
// packages.
func rerunArgs(group []string, pkg, name string) []string {
	env, group := environment(group)
	first := 0
	for first < len(group) && strings.HasPrefix(group[first], "-") {
		first++
		if takesValue(group[first-1]) {
			first = min(first+1, len(group))
		}
	}
	end := first
	for end < len(group) && !strings.HasPrefix(group[end], "-") {
		end++
	}
	args := append(slices.Clone(env), group[:first]...)
	args = append(args, "-run", "^"+name+"$", pkg)
	return append(args, group[end:]...)
}

// takesValue reports whether the value of a go test flag is the next argument. It is for
// all flags except those with "=" and the boolean ones (`go help build`, `go help
// testflag`).
func takesValue(flag string) bool {
	switch "-" + strings.TrimLeft(flag, "-") {
	case "-a", "-n", "-x", "-v", "-c", "-i", "-race", "-msan", "-asan", "-cover", "-work", "-json", "-short", "-failfast",
		"-benchmem", "-fullpath", "-trimpath", "-linkshared", "-modcacherw", "-artifacts":
		return false
	}
	return !strings.Contains(flag, "=")
}
