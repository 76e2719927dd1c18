package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	// maxRerunTests bounds how many different tests run again. When more fail, it is no accident.
	maxRerunTests = 5
	// maxReruns bounds how often one test runs again. Its first verdict counts; the second
	// try is for a test that was not started in the first, e.g. because TestMain failed.
	maxReruns = 2
)

// rerun runs each failed test again, alone. One that passes becomes flaky. One that
// fails again fails the run, and so does what may not run again: a data race, a
// panic, a timeout, a build, a skip, and a package that failed without a failed test.
// After such a failure nothing runs again, since the run has failed in any case.
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

// passesAgain runs a test alone. Its package has to pass too: a test that leaves
// something behind that TestMain complains of did not pass.
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

// forgive makes the failures of a test flaky.
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

// keepFlaky prints the flaky tests, if there are any, with what they said when they
// failed, and writes the same to the file.
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

// rerunArgs are a group's arguments with one package and one test in place of its packages.
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

// takesValue says whether a flag of go test is followed by its value: all are, but
// those with "=" and the boolean ones (`go help build`, `go help testflag`).
func takesValue(flag string) bool {
	switch "-" + strings.TrimLeft(flag, "-") {
	case "-a", "-n", "-x", "-v", "-c", "-i", "-race", "-msan", "-asan", "-cover", "-work", "-json", "-short", "-failfast",
		"-benchmem", "-fullpath", "-trimpath", "-linkshared", "-modcacherw", "-artifacts":
		return false
	}
	return !strings.Contains(flag, "=")
}
