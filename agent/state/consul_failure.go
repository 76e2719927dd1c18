package state

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"
)

// statusError is an answer that is a refusal, or the server's own failure.
type statusError struct {
	code int
	body string
}

func (e *statusError) Error() string {
	if e.body == "" {
		return fmt.Sprintf("%d %s", e.code, http.StatusText(e.code))
	}
	return fmt.Sprintf("%d %s", e.code, e.body)
}

// brokenError is a request without an answer. sent is false when it never left
// this host: no connection was to be had.
type brokenError struct {
	sent bool
	err  error
}

func (e *brokenError) Error() string { return e.err.Error() }
func (e *brokenError) Unwrap() error { return e.err }

// silentError is an attempt that was ended since nothing was heard.
type silentError struct{ err error }

func (e *silentError) Error() string { return e.err.Error() }
func (e *silentError) Unwrap() error { return e.err }

// failure is a judged error.
type failure struct {
	err      error         // wraps a sentinel of the package or the context's error
	maybe    bool          // a write may have been applied all the same
	patience time.Duration // for how long to go on trying; 0: not at all
}

const (
	// refusedPatience outlasts a Consul that is just being restarted by its
	// supervisor, and is short enough for a person who waits.
	refusedPatience = time.Second
	// lostPatience outlasts the election of a new leader, which Consul's followers
	// begin 5 to 10 s after the last sign of the old one unless it is set up to be
	// quicker (performance.raft_multiplier).
	lostPatience = 10 * time.Second
	// firstAttempt is short: a request that met a leader's end can hang in Consul
	// for seconds after the next has come, when a new one is answered at once. Each
	// that was not answered in time gives the next twice the time, for a store that
	// is only slow; lastAttempt makes room for a second within callDeadline.
	firstAttempt = time.Second
	lastAttempt  = 4 * time.Second

	firstPause = 25 * time.Millisecond
	lastPause  = 400 * time.Millisecond
)

// judge tells what err, from a request made under ctx, means.
func (c *consulStore) judge(ctx context.Context, err error) failure {
	broken, isBroken := errors.AsType[*brokenError](err)
	maybe := !isBroken || broken.sent
	if ctx.Err() != nil {
		return failure{err: c.ended(ctx, maybe), maybe: maybe}
	}
	if status, ok := errors.AsType[*statusError](err); ok {
		return c.judgeStatus(status)
	}
	f := failure{maybe: maybe, patience: lostPatience, err: c.unavailable(err)}
	if !maybe {
		f.err = c.unavailable(shortCause(err))
		if _, silent := errors.AsType[*silentError](err); !silent {
			f.patience = refusedPatience
		}
	}
	_, noConsul := errors.AsType[*json.SyntaxError](err)
	if noConsul || isTLSMismatch(err) {
		f.patience = 0 // it will not be better the next time
	}
	return f
}

// isTLSMismatch tells whether the two sides cannot agree on TLS: the
// certificate of one does not please the other, or one does not speak it. A
// server says what it thinks of a client's certificate only after the
// handshake, when the request is on its way, and does not serve it.
func isTLSMismatch(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return true
	}
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error" // crypto/tls's name for an alert
}

func (c *consulStore) judgeStatus(status *statusError) failure {
	switch code := status.code; {
	case code == http.StatusForbidden || code == http.StatusUnauthorized:
		return failure{err: fmt.Errorf("%w: consul at %s: permission denied: check the token (%w)", ErrInvalid, c.address, status)}
	case code == http.StatusTooManyRequests:
		// A limit of the server's: it did nothing.
		return failure{err: c.unavailable(status), patience: lostPatience}
	case code >= 500:
		return failure{err: c.unavailable(status), maybe: true, patience: lostPatience}
	default:
		return failure{err: fmt.Errorf("%w: consul at %s: %w", ErrInvalid, c.address, status)}
	}
}

// ended is the error of a call whose context is over: the context's own when
// the caller ended it before anything was in doubt.
func (c *consulStore) ended(ctx context.Context, maybe bool) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, context.Canceled) && !maybe {
		return fmt.Errorf("consul at %s: %w", c.address, cause)
	}
	if cause != ctx.Err() {
		cause = fmt.Errorf("%w (%w)", cause, ctx.Err())
	}
	return c.unavailable(cause)
}

func (c *consulStore) unavailable(cause error) error {
	return fmt.Errorf("%w: consul at %s: %w", ErrUnavailable, c.address, cause)
}

// shortCause leaves the request's URL and the address, which the message has
// already, out of a failed connection's error.
func shortCause(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		if call, ok := errors.AsType[*os.SyscallError](op.Err); ok {
			if errno, ok := errors.AsType[syscall.Errno](call.Err); ok {
				return errno
			}
		}
		return op.Err
	}
	if broken, ok := errors.AsType[*brokenError](err); ok {
		return broken.err
	}
	return err
}

// pacer spaces the attempts of one call.
type pacer struct {
	since time.Time // of the first failure
	pause time.Duration
	limit time.Duration // of the next attempt; 0: firstAttempt
}

// again waits before the next attempt. It is false when patience, counted from
// the first failure, or ctx is over.
func (p *pacer) again(ctx context.Context, patience time.Duration) bool {
	if p.since.IsZero() {
		p.since, p.pause = time.Now(), firstPause
	} else {
		p.pause = min(2*p.pause, lastPause)
	}
	if patience == 0 || time.Since(p.since)+p.pause > patience {
		return false
	}
	timer := time.NewTimer(p.pause/2 + rand.N(p.pause/2))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// read does a request that changes nothing until it is answered or refused.
func (c *consulStore) read(ctx context.Context, request func(context.Context) error) error {
	var pace pacer
	for {
		err := c.attempt(ctx, &pace, request)
		if err == nil {
			return nil
		}
		f := c.judge(ctx, err)
		if ctx.Err() != nil {
			return c.ended(ctx, false)
		}
		if !pace.again(ctx, f.patience) {
			return f.err
		}
	}
}

func (c *consulStore) attempt(ctx context.Context, pace *pacer, request func(context.Context) error) error {
	limit := max(pace.limit, firstAttempt)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %v", limit))
	defer cancel()
	err := request(ctx)
	if err != nil && ctx.Err() != nil {
		pace.limit = min(2*limit, lastAttempt)
		err = &silentError{err}
	}
	return err
}
