//go:build long

package main

import (
	"context"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// toTry finds what the demo ends with: commands, and what each shows.
var toTry = regexp.MustCompile(`(?m)^  (scripts/lab exec .*)\n      shows: (.*)$`)

// Promise: make demo ends with 0 and with every pair reached, and with three commands
// that show what it says; make demo-down leaves nothing.
func TestDemo(t *testing.T) {
	if !alone(t, 15*time.Minute) {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 14*time.Minute)
	defer cancel()
	run := func(target string) string {
		t.Helper()
		cmd := exec.CommandContext(ctx, "make", "-s", target)
		cmd.Dir = repository
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		if err != nil {
			t.Fatalf("make %s: %v", target, err)
		}
		return string(out)
	}
	before := traces(t)
	out := run("demo")
	for _, want := range []string{"Hello from Web on h2", "6 of 6 directed pairs reached, ping and TCP"} {
		if !strings.Contains(out, want) {
			t.Errorf("make demo does not say %q", want)
		}
	}
	suggestions := toTry.FindAllStringSubmatch(out, -1)
	if len(suggestions) != 3 {
		t.Errorf("it ends with %d commands to try", len(suggestions))
	}
	for _, s := range suggestions {
		cmd := exec.CommandContext(ctx, "sh", "-c", s[1])
		cmd.Dir = repository
		if said, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(said), s[2]) {
			t.Errorf("%s: %v, must show %q: %s", s[1], err, s[2], said)
		}
	}
	if len(traces(t)) < len(before)+10 {
		t.Error("the demo's hosts are not up")
	}
	run("demo-down")
	leftNothing(t, before)
}
