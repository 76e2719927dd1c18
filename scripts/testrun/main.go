// Testrun runs `go test -json` once for each group of arguments and judges them
// together. Groups that are parted by a lone "--" run one after the other. A lone "++"
// begins another lane of groups, and lanes run side by side. It prints each package's
// result, the output of what failed, and "N passed, N failed" at
// the end. A skipped test counts as failed: a test that could not run proves nothing.
// With -v among a group's arguments all output of its tests is printed as it comes.
// Words like NAME=VALUE before a group's arguments are its environment, as with env(1),
// and its name in all that is said.
//
// With "-results FILE" before all groups, the verdict of each top-level test is written
// there: a line "ENVIRONMENT TAB PACKAGE TAB TEST TAB passed|flaky|failed".
//
// A test that failed runs again, alone, when all groups are done (rerun.go). If it
// passes then, it counts as passed; the end of the output and bin/flaky.txt say
// that it is flaky, and how it failed.
package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"
)

// flakyFile keeps the flaky tests of the last run; there is none when it had none.
const flakyFile = "bin/flaky.txt"

func main() {
	args, results := os.Args[1:], ""
	if len(args) > 1 && args[0] == "-results" {
		args, results = args[2:], args[1]
	}
	t := newTally(os.Stdout)
	passed := run(t, args, flakyFile)
	if results != "" {
		if err := os.WriteFile(results, t.results(), 0o644); err != nil { //nolint:gosec // for whoever reads the run
			fmt.Fprintln(os.Stderr, "testrun:", err)
			passed = false
		}
	}
	if !passed {
		os.Exit(1)
	}
}

// run judges all groups and says whether the run passed.
func run(t *tally, args []string, flakyFile string) bool {
	start := time.Now()
	_ = os.Remove(flakyFile) // of an earlier run; mostly there is none
	t.runLanes(args)
	t.rerun()
	if len(t.failed) > 0 {
		fmt.Fprintf(t.out, "\nfailed:\n")
		for _, f := range t.failed {
			fmt.Fprintln(t.out, "  "+f.name)
		}
	}
	kept := t.keepFlaky(flakyFile)
	fmt.Fprintf(t.out, "\nafter %s:\n%d passed, %d failed\n", time.Since(start).Round(time.Second), t.passed, len(t.failed))
	return kept && len(t.failed) == 0 && t.passed > 0
}

// runLanes runs the groups of each lane, side by side with the other lanes.
func (t *tally) runLanes(args []string) {
	out := &lockedWriter{w: t.out}
	var lanes []*tally
	var all sync.WaitGroup
	for lane := range parts(args, "++") {
		own := newTally(out)
		lanes = append(lanes, own)
		all.Go(func() {
			for group := range parts(lane, "--") {
				own.run(group)
			}
		})
	}
	all.Wait()
	for _, own := range lanes {
		t.passed += own.passed
		t.failed = append(t.failed, own.failed...)
		t.ended = append(t.ended, own.ended...)
	}
}

// lockedWriter takes one Write at a time.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// parts are what the arguments are cut into at each separator; empty ones are left out.
func parts(args []string, separator string) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		for len(args) > 0 {
			end := slices.Index(args, separator)
			if end < 0 {
				end = len(args)
			}
			if end > 0 && !yield(args[:end]) {
				return
			}
			args = args[min(end+1, len(args)):]
		}
	}
}
