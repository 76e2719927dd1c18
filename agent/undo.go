package agent

import (
	"context"
	"errors"
	"time"
)

// undoTimeout bounds a rollback. The rollback does not use the caller's deadline, because
// that may be what failed.
const undoTimeout = 10 * time.Second

// undoStack holds the steps that revert the steps done so far.
type undoStack []func(context.Context) error

func (u *undoStack) push(f func(context.Context) error) { *u = append(*u, f) }

// run executes all steps, the last first. It returns cause, wrapped in an undoError if a
// step fails.
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

// undoError is a failure that could not be reverted completely. The converge loop
// completes the rollback, and reports what prevents that.
type undoError struct{ cause, undo error }

func (e *undoError) Error() string {
	return e.cause.Error() + " (what it changed is undone as soon as possible)"
}

func (e *undoError) Unwrap() error { return e.cause }
