// Testrun runs `go test -json` once for each group of arguments and judges all groups
// together. A lone "--" separates groups that run one after the other. A lone "++" starts
// another lane of groups, and lanes run in parallel. Testrun prints the result of each
// package, the output of each failure, and "N passed, N failed" at the end. A skipped test
// counts as failed, because a test that could not run proves nothing. With -v in the
// arguments of a group, testrun prints all output of its tests immediately. Words like
// NAME=VALUE before a group's arguments set its environment, as with env(1), and are part
// of its name in all output.
//
// With "-results FILE" before all groups, testrun writes the verdict of each top-level
// test to FILE, one line each: "ENVIRONMENT TAB PACKAGE TAB TEST TAB passed|flaky|failed".
//
// When all groups are done, testrun runs each failed test again, alone (rerun.go). If the
// test passes then, it counts as passed but flaky: the end of the output and bin/flaky.txt
// name it and show how it failed.
package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"
)

// flakyFile contains the flaky tests of the last run. It does not exist if there were
// none.
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

// run runs and judges all groups. It reports whether the run passed.
func run(t *tally, args []string, flakyFile string) bool {
	start := time.Now()
	_ = os.Remove(flakyFile) // from an earlier run; usually missing
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

// runLanes runs the lanes in parallel, and the groups of each lane in order.
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

// lockedWriter serializes calls of Write.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// parts splits the arguments at each separator. It omits empty parts.
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
