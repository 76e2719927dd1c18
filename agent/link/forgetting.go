package link

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// forgetting deletes stale connections for many callers. Callers that arrive during a run
// share the next one. So the end of a hundred containers costs only a few walks through
// the kernel's table; each takes milliseconds even if the table is empty. The zero value
// is ready to use.
type forgetting struct {
	turn sync.Mutex // held over a run, so that there is one at a time
	mu   sync.Mutex
	next *forgetRun
}

type forgetRun struct {
	filters []*staleFilter
	done    chan struct{}
	shown   int // number of connections that the kernel returned
	err     error
}

// do waits until a run that started after this call ends, or until ctx ends.
func (g *forgetting) do(ctx context.Context, f *staleFilter) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	g.mu.Lock()
	run := g.next
	if run == nil {
		run = &forgetRun{done: make(chan struct{})}
		g.next = run
		go g.once(run) // not in the caller's goroutine: other callers wait for it too
	}
	run.filters = append(run.filters, f)
	g.mu.Unlock()
	select {
	case <-run.done:
		return run.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *forgetting) once(run *forgetRun) {
	g.turn.Lock()
	defer g.turn.Unlock()
	g.mu.Lock()
	g.next = nil
	g.mu.Unlock()
	run.err = run.forget()
	close(run.done)
}

// fewQueries is the largest number of filtered walks through the kernel's table. With
// more queries, one walk that returns everything is cheaper.
const fewQueries = 4

// forget deletes the connections that match any filter. If the queries are few, it
// requests only candidates, because the table may hold hundreds of thousands of
// connections.
func (r *forgetRun) forget() error {
	var queries []tupleQuery
	for _, f := range r.filters {
		queries = append(queries, f.queries()...)
	}
	if len(queries) > fewQueries {
		queries = []tupleQuery{{}}
	}
	return r.ask(queries)
}

// ask deletes the matching connections that the queries return. Kernels before Linux 5.8
// ignore a query and return everything. If a kernel rejects a query, ask requests
// everything.
func (r *forgetRun) ask(queries []tupleQuery) error {
	for _, q := range queries {
		whole, err := r.delete(q)
		if q.flags != 0 && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)) {
			whole = true
			_, err = r.delete(tupleQuery{})
		}
		if whole || err != nil {
			return err
		}
	}
	return nil
}

// delete deletes the connections that a query returns and a filter matches. whole reports
// that the kernel also returned connections outside the query.
func (r *forgetRun) delete(q tupleQuery) (whole bool, err error) {
	for range dumpTries {
		var stale [][]byte
		err = q.run(func(raw []byte) bool {
			r.shown++
			orig, reply := parseConnection(raw)
			whole = whole || !q.shows(orig, reply)
			if slices.ContainsFunc(r.filters, func(f *staleFilter) bool { return f.matches(orig, reply) }) {
				stale = append(stale, slices.Clone(raw))
			}
			return true
		})
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return whole, err
		}
		for _, raw := range stale {
			req := ctRequest(nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK)
			req.AddRawData(raw[nl.SizeofNfgenmsg:])
			if _, err := req.Execute(unix.NETLINK_NETFILTER, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return whole, fmt.Errorf("delete a connection: %w", err)
			}
		}
		if err == nil {
			break
		} // An interrupted dump deleted what it returned: repeat it for the rest.
	}
	return whole, err
}
