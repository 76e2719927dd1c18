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

// statusError is an HTTP response that reports a refusal or a server failure.
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

// brokenError is a request that got no response. sent is false if no connection was
// available, so the request never left this host.
type brokenError struct {
	sent bool
	err  error
}

func (e *brokenError) Error() string { return e.err.Error() }
func (e *brokenError) Unwrap() error { return e.err }

// silentError is an attempt that timed out without a response.
type silentError struct{ err error }

func (e *silentError) Error() string { return e.err.Error() }
func (e *silentError) Unwrap() error { return e.err }

// failure is an error with the decision how to handle it.
type failure struct {
	err      error         // wraps a sentinel error of this package or the context's error
	maybe    bool          // the write may have been applied nevertheless
	patience time.Duration // how long to retry; 0: do not retry
}

const (
	// refusedPatience exceeds the time in which a supervisor restarts Consul, and is
	// short enough for a user who waits.
	refusedPatience = time.Second
	// lostPatience exceeds the time until a new leader is elected. Consul's followers
	// start an election 5 to 10 s after they last heard from the old leader, or earlier
	// if performance.raft_multiplier is lower.
	lostPatience = 10 * time.Second
	// firstAttempt is short because a request sent while the leader fails can hang in
	// Consul for seconds after the election of the next leader, which answers a new
	// request at once. Each attempt that times out doubles the limit of the next one, in
	// case the store is only slow. lastAttempt leaves time for a second attempt within
	// callDeadline.
	firstAttempt = time.Second
	lastAttempt  = 4 * time.Second

	firstPause = 25 * time.Millisecond
	lastPause  = 400 * time.Millisecond
)

// judge classifies err, which a request under ctx returned.
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
		f.patience = 0 // a retry cannot succeed
	}
	return f
}

// isTLSMismatch reports whether the two sides cannot agree on TLS: one side rejects the
// other's certificate, or one side does not use TLS. A server reports that it rejects a
// client certificate only after the handshake, when the request is already on its way; it
// does not serve the request.
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
		// The server applies a rate limit. It did not execute the request.
		return failure{err: c.unavailable(status), patience: lostPatience}
	case code >= 500:
		return failure{err: c.unavailable(status), maybe: true, patience: lostPatience}
	default:
		return failure{err: fmt.Errorf("%w: consul at %s: %w", ErrInvalid, c.address, status)}
	}
}

// ended returns the error of a call whose context has ended. It returns the context's own
// error if the caller canceled before any write was in doubt.
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

// shortCause strips the request's URL and the address from a connection error, because
// the message contains them already.
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
	since time.Time // time of the first failure
	pause time.Duration
	limit time.Duration // time limit of the next attempt; 0: firstAttempt
}

// again waits before the next attempt. It returns false if ctx has ended or if patience,
// counted from the first failure, is exhausted.
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

// read repeats a read-only request until the server answers or refuses it.
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
