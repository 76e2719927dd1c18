package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// said is what a command of the lab left behind.
type said struct {
	code        int
	out, errors string
}

// labctl runs a command of the lab with an input.
func labctl(t *testing.T, program, input string, args ...string) said {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errOut
	err := cmd.Run()
	if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
		t.Fatalf("%q: %v", args, err)
	}
	return said{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
}

// Promise: exec passes arguments, input and exit status unchanged; on a bare host
// Consul is at hand and neither it nor the agent runs; down leaves nothing, also when
// up was killed half-way.
func TestLab(t *testing.T) {
	if !alone(t, 10*time.Minute) {
		return
	}
	program := buildLabctl(t)
	before := traces(t)
	down := func() {
		t.Helper()
		if s := labctl(t, program, "", "down"); s.code != 0 || !strings.Contains(s.out, "the lab is gone") {
			t.Fatalf("down: %+v", s)
		}
		leftNothing(t, before)
	}

	killedHalfWay(t, program)
	if left := slices.DeleteFunc(traces(t), func(line string) bool { return slices.Contains(before, line) }); len(left) < 10 {
		t.Error("there is nothing of the lab to take away")
	}
	if s := labctl(t, program, "", "up", "1", "--bare"); s.code != 1 || !strings.Contains(s.errors, "scripts/lab down first") {
		t.Errorf("up over what a crash left: %+v", s)
	}
	down()

	if s := labctl(t, program, "", "up", "2", "--bare"); s.code != 0 {
		t.Fatalf("up: %+v", s)
	}
	const echo = `printf "<%s>" "$@"; cat; echo aside >&2; exit 7`
	for _, tt := range []struct {
		name, input string
		args        []string
		want        said
	}{
		{"arguments, input, status", "in\x00put\n", []string{"h1", "sh", "-c", echo, "sh", "a b", "", "*", "$HOME", "--", "-x", "two\nlines", "'\""}, said{7, "<a b><><*><$HOME><--><-x><two\nlines><'\">in\x00put\n", "aside\n"}},
		{"a flag of its own", "", []string{"h2", "echo", "--bare", "-h"}, said{0, "--bare -h\n", ""}},
		{"another host", "", []string{"h2", "hostname"}, said{0, "h2\n", ""}},
		{"a signal", "", []string{"h1", "sh", "-c", "kill -TERM $$"}, said{143, "", ""}},
		{"no such command", "", []string{"h1", "no-such"}, said{127, "", `h1: exec: "no-such": executable file not found in $PATH` + "\n"}},
		{"no such host", "", []string{"h3", "true"}, said{1, "", `lab: host "h3" is not there or is off; scripts/lab status shows the hosts` + "\n"}},
		{"no command", "", []string{"h1"}, said{2, "", usage}},
		{"bare", "", []string{"h1", "sh", "-c", "command -v consul; cat /proc/[0-9]*/comm | grep -x -e consul -e socketplane"}, said{1, "/usr/local/sbin/consul\n", ""}},
		{"the wire", "", []string{"ul", "sh", "-c", "ip -br link show master br0 | grep -c UP"}, said{0, "3\n", ""}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := labctl(t, program, tt.input, append([]string{"exec"}, tt.args...)...); got != tt.want {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
		})
	}
	down()
	if s := labctl(t, program, "", "exec", "h1", "true"); s.code != 1 || s.errors != "lab: no lab is up; scripts/lab up first\n" {
		t.Errorf("exec without a lab: %+v", s)
	}
	down() // again: nothing to do
}

// killedHalfWay kills up when its switches run and dockerd starts.
func killedHalfWay(t *testing.T, program string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, "up", "2", "--bare")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.Contains(lines.Text(), "Open vSwitch") {
		t.Log(lines.Text())
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || lines.Err() != nil {
		t.Fatalf("up was not killed half-way: %v, %v", err, lines.Err())
	}
}
