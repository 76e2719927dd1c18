package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A skip is a failure, as is a package that does not build; what failed says why,
// what passed is silent unless -v is said.
func TestJudgement(t *testing.T) {
	for _, tt := range []struct {
		name, code string
		args       []string
		passed     int
		failed     []string
		says, not  string
	}{
		{"passes", `func TestA(t *testing.T) { t.Log("aside") }`, nil, 1, nil, "ok   x", "aside"},
		{"passes loudly", `func TestA(t *testing.T) { t.Log("aside") }`, []string{"-v"}, 1, nil, "aside", "FAIL"},
		{"fails", `func TestA(t *testing.T) { t.Error("because") }`, nil, 0, []string{"x TestA"}, "because", "ok"},
		{"skips", `func TestA(t *testing.T) { t.Skip("no root") }; func TestB(*testing.T) {}`, nil, 1, []string{"x TestA (skipped)"}, "no root", "ok"},
		{"does not build", `func TestA(t *testing.T) { nothing }`, nil, 0, []string{"x"}, "undefined: nothing", "ok"},
		{"has no test", ``, nil, 0, nil, "", "FAIL"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code := "package x\n"
			if tt.code != "" {
				code += "import \"testing\"\n" + tt.code + "\n"
			}
			module(t, code)
			var out bytes.Buffer
			judge := newTally(&out)
			judge.run(append(tt.args, "-vet=off", "."))
			if failed := names(judge.failed); judge.passed != tt.passed || !slices.Equal(failed, tt.failed) {
				t.Errorf("%d passed, failed are %q", judge.passed, failed)
			}
			if !strings.Contains(out.String(), tt.says) || strings.Contains(out.String(), tt.not) {
				t.Errorf("it says %q", out.String())
			}
		})
	}
}

// module makes the working directory a module of one package, with one test file.
func module(t *testing.T, code string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module x\n", "x_test.go": code} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
}

func names(failures []failure) (names []string) {
	for _, f := range failures {
		names = append(names, f.name)
	}
	return names
}

// Groups of a lane run one after the other, lanes side by side; all are judged together.
func TestLanes(t *testing.T) {
	module(t, `package x

import (
	"os"
	"testing"
	"time"
)

// meets makes one file and waits for another.
func meets(t *testing.T, mine, other string) {
	if err := os.WriteFile(mine, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < 1200; i++ {
		if _, err := os.Stat(other); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("%s never came", other)
}

func TestA(t *testing.T) { meets(t, "a", "b") }
func TestB(t *testing.T) { meets(t, "b", "a") }
func TestC(t *testing.T) {
	if _, err := os.Stat("a"); err != nil {
		t.Error("before the first group of its lane")
	}
	t.Error("fails")
}
`)
	var out bytes.Buffer
	judge := newTally(&out)
	judge.runLanes([]string{"-vet=off", "-run", "TestA", ".", "--", "LANE=first", "-vet=off", "-run", "TestC", ".", "++", "-vet=off", "-run", "TestB", "."})
	if failed := names(judge.failed); judge.passed != 2 || !slices.Equal(failed, []string{"x TestC LANE=first"}) {
		t.Errorf("%d passed, failed are %q: %s", judge.passed, failed, out.String())
	}
	if strings.Contains(out.String(), "before the first") {
		t.Errorf("it says %q", out.String())
	}
	judge.rerun()
	if !strings.Contains(out.String(), "again, alone (1 of 1): x TestC") {
		t.Errorf("it says %q", out.String())
	}
}
