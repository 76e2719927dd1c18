package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	// patience bounds the wait for an answer, name lookup and TLS included, and is the
	// time in which the answer has to go on.
	patience = 3 * time.Second
	// leastBytes have to arrive in each patience. At a lower rate building is faster:
	// 60 MB take five minutes at this one.
	leastBytes = 600 << 10
)

// impatient is a transport that gives a server up that does not answer, or sends
// too slowly.
type impatient struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (i impatient) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	silent := time.AfterFunc(patience, func() { cancel(fmt.Errorf("no answer within %s", patience)) })
	resp, err := i.RoundTripper.RoundTrip(req.WithContext(ctx))
	silent.Stop()
	if err != nil {
		err = because(ctx, err)
		cancel(nil)
		return nil, err
	}
	resp.Body = watch(ctx, cancel, resp.Body)
	return resp, nil
}

// watched is a body that has to arrive at a rate.
type watched struct {
	io.ReadCloser
	ctx     context.Context
	cancel  context.CancelCauseFunc
	slow    *time.Timer
	arrived int // since slow was set
}

func watch(ctx context.Context, cancel context.CancelCauseFunc, body io.ReadCloser) io.ReadCloser {
	slow := time.AfterFunc(patience, func() {
		cancel(fmt.Errorf("less than %d KiB in %s: building is faster", leastBytes>>10, patience))
	})
	return &watched{ReadCloser: body, ctx: ctx, cancel: cancel, slow: slow}
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	if w.arrived += n; w.arrived >= leastBytes {
		w.arrived = 0
		w.slow.Reset(patience)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = because(w.ctx, err)
	}
	return n, err
}

func (w *watched) Close() error {
	w.slow.Stop()
	w.cancel(nil)
	return w.ReadCloser.Close()
}

// because gives the reason why a request was cancelled, if it was.
func because(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return context.Cause(ctx)
}
