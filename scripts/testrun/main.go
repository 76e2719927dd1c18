// Testrun runs `go test -json` once for each group of arguments (groups are parted
// by a lone "--"), one group after the other, and judges them together: it prints
// each package's result, the output of what failed, and "N passed, N failed" at
// the end. A skipped test counts as failed: a test that could not run proves nothing.
// With -v among a group's arguments all output of its tests is printed as it comes.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
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

// tally is the judgement so far.
type tally struct {
	out    io.Writer
	passed int
	failed []string
	said   map[string][]string // output by package and test, until its end is known
	bad    map[string]bool     // packages with a failed test
	loud   bool                // output is printed as it comes, and not kept
}

func main() {
	t := &tally{out: os.Stdout, said: map[string][]string{}, bad: map[string]bool{}}
	start := time.Now()
	for group := range groups(os.Args[1:]) {
		if err := t.run(group); err != nil {
			fmt.Fprintln(os.Stderr, "testrun:", err)
			t.failed = append(t.failed, "go test "+strings.Join(group, " "))
		}
	}
	if len(t.failed) > 0 {
		fmt.Fprintf(t.out, "\nfailed:\n")
		for _, name := range t.failed {
			fmt.Fprintln(t.out, "  "+name)
		}
	}
	fmt.Fprintf(t.out, "\nafter %s:\n%d passed, %d failed\n", time.Since(start).Round(time.Second), t.passed, len(t.failed))
	if len(t.failed) > 0 || t.passed == 0 {
		os.Exit(1)
	}
}

// groups parts the arguments at each "--".
func groups(args []string) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		for len(args) > 0 {
			end := slices.Index(args, "--")
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

// run is one `go test`. That it exits 1 because a test failed is no error here.
func (t *tally) run(args []string) error {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	before := len(t.failed)
	clear(t.bad) // a group may test a package again
	t.loud = slices.Contains(args, "-v")
	readErr := t.read(stdout)
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(t.failed) > before {
		err = nil
	}
	return errors.Join(readErr, err)
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
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output":
		if t.loud {
			fmt.Fprint(t.out, e.Output)
			return
		}
		t.said[key] = append(t.said[key], e.Output)
	case "build-output":
		fmt.Fprint(t.out, e.Output)
	case "pass":
		if e.Test != "" {
			t.passed++
		} else {
			t.result("ok  ", e)
		}
		delete(t.said, key)
	case "skip":
		if e.Test != "" {
			t.fail(e, "(skipped)")
		}
		delete(t.said, key)
	case "fail":
		if e.Test != "" {
			t.fail(e, "")
		} else {
			// A panic, a failed build or TestMain: no test of its own to blame.
			if !t.bad[e.Package] {
				t.fail(e, "")
			}
			t.result("FAIL", e)
		}
		delete(t.said, key)
	}
}

func (t *tally) result(verdict string, e event) {
	note := ""
	if verdict == "ok  " && t.bad[e.Package] {
		verdict, note = "FAIL", " (skipped tests)"
	}
	fmt.Fprintf(t.out, "%s %s %.1fs%s\n", verdict, e.Package, e.Elapsed, note)
}

// fail records a failure and prints all that was said on the way to it.
func (t *tally) fail(e event, why string) {
	name := strings.TrimSpace(e.Package + " " + e.Test + " " + why)
	t.failed = append(t.failed, name)
	t.bad[e.Package] = true
	fmt.Fprintf(t.out, "--- %s\n%s", name, strings.Join(t.said[e.Package+" "+e.Test], ""))
}
