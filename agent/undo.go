package agent

import (
	"context"
	"errors"
	"time"
)

// undoTimeout bounds the way back after a failure. It does not use up the
// caller's deadline, which may be what failed.
const undoTimeout = 10 * time.Second

// undoStack holds, beside each step done, the step that takes it back.
type undoStack []func(context.Context) error

func (u *undoStack) push(f func(context.Context) error) { *u = append(*u, f) }

// run takes everything back, the last first, and joins what goes wrong to cause.
func (u undoStack) run(ctx context.Context, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	var errs []error
	for i := len(u) - 1; i >= 0; i-- {
		if err := u[i](ctx); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 {
		return cause
	}
	return &undoError{cause: cause, undo: errors.Join(errs...)}
}

// undoError is a failure whose consequences could not all be taken back; the
// converge loop finishes the job, and reports what keeps it from doing so.
type undoError struct{ cause, undo error }

func (e *undoError) Error() string {
	return e.cause.Error() + " (what it changed is undone as soon as possible)"
}

func (e *undoError) Unwrap() error { return e.cause }
