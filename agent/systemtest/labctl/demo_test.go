//go:build long

package main

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Promise: make demo ends with 0 and with every pair reached; make demo-down leaves
// nothing.
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
	if len(traces(t)) < len(before)+10 {
		t.Error("the demo's hosts are not up")
	}
	run("demo-down")
	leftNothing(t, before)
}
