package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tests are of a package whose tests fail as often as a case says: each run of
// fail(t, n) is counted in a file, and the first n runs fail.
const tests = `package x

import (
	"errors"
	"fmt"
	"os"
	"testing"
)

// runs counts how often it was called with a name, over all processes.
func runs(name string) int {
	f, err := os.OpenFile(name+".runs", os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	if _, err := f.WriteString("."); err != nil {
		panic(err)
	}
	info, err := f.Stat()
	if err != nil {
		panic(err)
	}
	return int(info.Size())
}

func fail(t *testing.T, times int) {
	if n := runs(t.Name()); n <= times {
		t.Errorf("run %d of %s", n, t.Name())
	}
}

var _ = errors.Join
var _ = fmt.Sprint

`

// A test that failed and then passes alone is flaky; one that fails twice, and all
// that is worse than a failed test, fails the run.
func TestRerun(t *testing.T) {
	for _, tt := range []struct {
		name, code string
		args       []string
		passed     int
		failed     []string
		flaky      []string
		says       string
		runs       map[string]int // how often tests ran, all in all
	}{
		{
			name:   "passes alone",
			code:   `func TestA(t *testing.T) { fail(t, 1) }; func TestB(t *testing.T) { fail(t, 0) }; func TestAB(t *testing.T) { fail(t, 0) }`,
			passed: 3, flaky: []string{"x TestA"}, says: "run 1 of TestA", runs: map[string]int{"TestA": 2, "TestB": 1, "TestAB": 1},
		},
		{
			name:   "fails twice",
			code:   `func TestA(t *testing.T) { fail(t, 2) }; func TestB(t *testing.T) { fail(t, 1) }`,
			passed: 1, failed: []string{"x TestA"}, flaky: []string{"x TestB"}, runs: map[string]int{"TestA": 2, "TestB": 2},
		},
		{
			name: "a subtest",
			code: `func TestA(t *testing.T) {
				t.Run("one", func(t *testing.T) { if runs("one") == 1 { t.Error("sub because") } })
				t.Run("two", func(*testing.T) {})
			}`,
			passed: 3, flaky: []string{"x TestA/one", "x TestA"}, says: "sub because", runs: map[string]int{"one": 2},
		},
		{
			name: "five tests",
			code: `func TestA(t *testing.T) { fail(t, 1) }; func TestB(t *testing.T) { fail(t, 1) }; func TestC(t *testing.T) { fail(t, 1) }
				func TestD(t *testing.T) { fail(t, 1) }; func TestE(t *testing.T) { fail(t, 1) }`,
			passed: 5, flaky: []string{"x TestA", "x TestB", "x TestC", "x TestD", "x TestE"},
		},
		{
			name: "six tests",
			code: `func TestA(t *testing.T) { fail(t, 1) }; func TestB(t *testing.T) { fail(t, 1) }; func TestC(t *testing.T) { fail(t, 1) }
				func TestD(t *testing.T) { fail(t, 1) }; func TestE(t *testing.T) { fail(t, 1) }; func TestF(t *testing.T) { fail(t, 1) }`,
			failed: []string{"x TestA", "x TestB", "x TestC", "x TestD", "x TestE", "x TestF"},
			says:   "6 failed, and more than 5 are no accident", runs: map[string]int{"TestA": 1},
		},
		{
			name:   "a skip",
			code:   `func TestA(t *testing.T) { runs("TestA"); t.Skip("no root") }; func TestB(t *testing.T) { fail(t, 1) }`,
			failed: []string{"x TestA (skipped)", "x TestB"}, says: "x TestA (skipped) has failed the run", runs: map[string]int{"TestA": 1, "TestB": 1},
		},
		{
			name:   "a panic",
			code:   `func TestA(t *testing.T) { fail(t, 1) }; func TestB(*testing.T) { if runs("TestB") == 1 { panic("boom") } }; func TestC(*testing.T) {}`,
			failed: []string{"x TestA", "x TestB"}, says: "boom", runs: map[string]int{"TestA": 1, "TestB": 1},
		},
		{
			name:   "a test ends the process",
			code:   `func TestA(t *testing.T) { fail(t, 1) }; func TestB(*testing.T) { if runs("TestB") == 1 { fmt.Println("so long"); os.Exit(1) } }`,
			failed: []string{"x TestA", "x TestB (did not end)"}, says: "so long", runs: map[string]int{"TestA": 1, "TestB": 1},
		},
		{
			name: "a test hangs", args: []string{"-timeout", "3s"},
			code:   `func TestA(t *testing.T) { fail(t, 1) }; func TestB(*testing.T) { runs("TestB"); fmt.Println("so slow"); select {} }`,
			failed: []string{"x TestA", "x TestB (did not end)"}, says: "so slow", runs: map[string]int{"TestA": 1, "TestB": 1},
		},
		{
			name: "TestMain complains afterwards",
			code: `func TestMain(m *testing.M) { code := m.Run(); if runs("main") == 1 { fmt.Println("left behind"); code = 1 }; os.Exit(code) }
				func TestA(t *testing.T) { fail(t, 0) }`,
			passed: 1, failed: []string{"x"}, says: "left behind", runs: map[string]int{"TestA": 1},
		},
		{
			name: "alone, TestMain complains",
			code: `func TestMain(m *testing.M) { code := m.Run(); if runs("main") == 2 { fmt.Println("left behind"); code = 1 }; os.Exit(code) }
				func TestA(t *testing.T) { fail(t, 1) }`,
			failed: []string{"x TestA"}, says: "left behind", runs: map[string]int{"TestA": 2},
		},
		{
			name: "alone, it is not started at first",
			code: `func TestMain(m *testing.M) { if runs("main") == 2 { fmt.Println("no lab"); os.Exit(1) }; os.Exit(m.Run()) }
				func TestA(t *testing.T) { fail(t, 1) }`,
			passed: 1, flaky: []string{"x TestA"}, says: "no lab", runs: map[string]int{"TestA": 2, "main": 3},
		},
		{
			name: "alone, it is never started",
			code: `func TestMain(m *testing.M) { if runs("main") > 1 { fmt.Println("no lab"); os.Exit(1) }; os.Exit(m.Run()) }
				func TestA(t *testing.T) { fail(t, 1) }`,
			failed: []string{"x TestA"}, says: "no lab", runs: map[string]int{"TestA": 1, "main": 3},
		},
		{
			name: "a data race", args: []string{"-race"},
			code: `func TestA(t *testing.T) { fail(t, 1) }
				func TestB(t *testing.T) {
					if runs("TestB") > 1 { return }
					n, done := 0, make(chan bool)
					go func() { n++; close(done) }()
					n++
					<-done
					_ = n
				}`,
			failed: []string{"x TestA", "x TestB"}, says: "DATA RACE", runs: map[string]int{"TestA": 1, "TestB": 1},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			module(t, tests+tt.code)
			var out bytes.Buffer
			judge := newTally(&out)
			args := slices.Concat([]string{"-vet=off", "-count=1"}, tt.args, []string{"."})
			file := filepath.Join("bin", "flaky.txt")
			if good := run(judge, args, file); good != (len(tt.failed) == 0) {
				t.Errorf("run says %t", good)
			}
			if failed, flaky := names(judge.failed), names(judge.flaky); judge.passed != tt.passed || !slices.Equal(failed, tt.failed) || !slices.Equal(flaky, tt.flaky) {
				t.Errorf("%d passed, failed are %q, flaky %q", judge.passed, failed, flaky)
			}
			for name, want := range tt.runs {
				if data, err := os.ReadFile(name + ".runs"); err != nil || len(data) != want {
					t.Errorf("%s ran %d times (%v), must have %d", name, len(data), err, want)
				}
			}
			checkReport(t, out.String(), file, tt.says, tt.flaky)
			if t.Failed() {
				t.Logf("it said:\n%s", out.String())
			}
		})
	}
}

// checkReport compares what is printed at the end with what the file keeps.
func checkReport(t *testing.T, out, file, says string, flaky []string) {
	t.Helper()
	if !strings.Contains(out, says) {
		t.Errorf("it does not say %q", says)
	}
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	if last := lines[len(lines)-1]; !strings.HasSuffix(last, " failed") {
		t.Errorf("its last line is %q", last)
	}
	kept, err := os.ReadFile(file)
	if (err == nil) != (len(flaky) > 0) {
		t.Errorf("%d are flaky; reading %s: %v", len(flaky), file, err)
	}
	if !strings.Contains(out, string(kept)) {
		t.Errorf("it does not print what %s keeps: %q", file, kept)
	}
	for _, name := range flaky {
		if !strings.Contains(string(kept), "FLAKY: "+name+" failed") {
			t.Errorf("%s does not name %s: %q", file, name, kept)
		}
	}
}

// The file of an earlier run does not stay.
func TestFlakyFileIsOfThisRun(t *testing.T) {
	module(t, tests+"func TestA(t *testing.T) { fail(t, 1) }")
	for i, want := range []bool{true, false} {
		run(newTally(&bytes.Buffer{}), []string{"-count=1", "."}, "flaky.txt")
		if _, err := os.Stat("flaky.txt"); (err == nil) != want {
			t.Errorf("after run %d: %v", i+1, err)
		}
	}
}

func TestRerunArgs(t *testing.T) {
	for _, tt := range []struct{ group, want string }{
		{"-race -count=1 -parallel 8 -timeout 10m a/b a/c", "-race -count=1 -parallel 8 -timeout 10m -run ^TestX$ a/c"},
		{"-race -p 1 -tags long -count=1 ./agent/... ./vagrant", "-race -p 1 -tags long -count=1 -run ^TestX$ a/c"},
		{"-v -tags long ./walk -update", "-v -tags long -run ^TestX$ a/c -update"},
		{"--race --run Test .", "--race --run Test -run ^TestX$ a/c"},
		{"-v", "-v -run ^TestX$ a/c"},
	} {
		if got := strings.Join(rerunArgs(strings.Fields(tt.group), "a/c", "TestX"), " "); got != tt.want {
			t.Errorf("%s: %s", tt.group, got)
		}
	}
}

// A group has an environment of its own, also when a test of it runs again, and the
// results name it.
func TestEnvironmentAndResults(t *testing.T) {
	module(t, tests+`
func TestColour(t *testing.T) {
	if os.Getenv("COLOUR") != "red" || os.Getenv("SIZE") != "" {
		t.Errorf("COLOUR is %q, SIZE %q", os.Getenv("COLOUR"), os.Getenv("SIZE"))
	}
	t.Run("sub", func(*testing.T) {})
}
func TestFlaky(t *testing.T) { if os.Getenv("COLOUR") == "red" { fail(t, 1) } }`)
	var out bytes.Buffer
	tally := newTally(&out)
	if run(tally, []string{"COLOUR=red", "-count=1", ".", "--", "SIZE=xl", "COLOUR=green", "-count=1", "."}, "flaky.txt") {
		t.Error("it passed with the wrong colour")
	}
	want := "COLOUR=red\tx\tTestColour\tpassed\nSIZE=xl COLOUR=green\tx\tTestFlaky\tpassed\n" +
		"COLOUR=red\tx\tTestFlaky\tflaky\nSIZE=xl COLOUR=green\tx\tTestColour\tfailed\n"
	if got := string(tally.results()); got != want {
		t.Errorf("results are %q, want %q\n%s", got, want, out.String())
	}
	for _, said := range []string{"FAIL x COLOUR=red ", "--- x TestColour SIZE=xl COLOUR=green\n", "FLAKY: x TestFlaky COLOUR=red failed"} {
		if !strings.Contains(out.String(), said) {
			t.Errorf("it does not say %q:\n%s", said, out.String())
		}
	}
}
