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

// forgetting deletes stale connections for many callers: who comes while a run is
// under way shares the next one. So the end of a hundred containers costs a few walks
// through the kernel's table, which takes the kernel milliseconds even when it is
// empty. The zero value is ready.
type forgetting struct {
	turn sync.Mutex // one run at a time
	mu   sync.Mutex
	next *forgetRun
}

type forgetRun struct {
	filters []*staleFilter
	done    chan struct{}
	shown   int // connections that the kernel has shown
	err     error
}

// do returns after a run that began after this call, or with ctx.
func (g *forgetting) do(ctx context.Context, f *staleFilter) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	g.mu.Lock()
	run := g.next
	if run == nil {
		run = &forgetRun{done: make(chan struct{})}
		g.next = run
		go g.once(run) // not the caller's: others wait for it too
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

// fewQueries is how many times the kernel walks its table for what may match, before
// it is cheaper to have it show all once.
const fewQueries = 4

// forget deletes what any of the filters matches. Where these are few the kernel is
// asked for what may match only, since the table may hold hundreds of thousands of
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

// ask deletes what all of the queries show. Older kernels (before Linux 5.8) heed none
// and show all; one that refuses a query is asked for all.
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

// delete deletes what a query shows and a filter matches. whole says that the kernel
// has shown what was not asked for.
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
		} // An interrupted dump has deleted what it showed: again for the rest.
	}
	return whole, err
}
