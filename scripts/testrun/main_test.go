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
