package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/socketplane/socketplane/agent/api"
)

// Exit codes of every command except run, which uses the codes of docker run.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitRun         = 125 // docker run: the failure is not the container's
)

// usageError means that a command was used incorrectly.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// exitError ends the program with its own exit code. A nil cause means that the error has
// been reported already.
type exitError struct {
	code  int
	cause error
}

func (e *exitError) Error() string {
	if e.cause == nil {
		return fmt.Sprintf("exit %d", e.code)
	}
	return e.cause.Error()
}

func (e *exitError) Unwrap() error { return e.cause }

// exitCode returns the program's exit code for an error.
func exitCode(err error) int {
	if err == nil {
		return exitDone
	}
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	if errors.Is(err, api.ErrUnreachable) {
		return exitUnreachable
	}
	if api.CodeOf(err) == api.CodeInvalid {
		return exitUsage
	}
	return exitFailed
}

// report prints an error as one line and, if debug is set, the chain of its causes.
func report(w io.Writer, err error, debug bool) {
	if e, ok := errors.AsType[*exitError](err); ok && e.cause == nil {
		return
	}
	fmt.Fprintln(w, "socketplane: "+oneLine(err.Error()))
	if !debug {
		return
	}
	for cause := errors.Unwrap(err); cause != nil; cause = errors.Unwrap(cause) {
		fmt.Fprintln(w, "  caused by: "+oneLine(fmt.Sprintf("%v (%T)", cause, cause)))
	}
}

// oneLine converts a message to one line without control characters.
func oneLine(s string) string {
	var b strings.Builder
	for i, line := range strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }) {
		if i > 0 {
			b.WriteString("; ")
		}
		for _, r := range strings.TrimSpace(line) {
			switch {
			case r == '\t':
				b.WriteByte(' ')
			case unicode.IsControl(r):
				fmt.Fprintf(&b, "\\x%02x", r)
			default:
				b.WriteRune(r)
			}
		}
	}
	return b.String()
}
