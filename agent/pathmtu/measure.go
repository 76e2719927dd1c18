package pathmtu

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/socketplane/socketplane/ovs"
)

const (
	// tries is how often a size is sent before it counts as lost. lastTries is that
	// number where the result sets a path's limit. A path that loses every second packet
	// loses all ten large ones and none of the small ones once in a million times.
	tries     = 3
	lastTries = 10
	// answerTime limits the wait for the answers of one try. restTime limits the wait for
	// other answers after that to the small probe, which was sent last. lateTime limits
	// the wait for missing small probes at the end.
	answerTime = time.Second
	restTime   = 300 * time.Millisecond
	lateTime   = 2 * time.Second
	// sizesAtOnce is the number of sizes in one round of the search.
	sizesAtOnce = 15
)

// Errors of a measurement.
var (
	errSilent = errors.New("the peer does not answer")      // or it runs a release without probes
	errUnsure = errors.New("the path loses small packets")  // so the loss of large packets proves nothing
	errOdd    = errors.New("the answers contradict others") // the path changed meanwhile
)

// exchange matches answers to requests.
type exchange struct {
	wire Wire
	mu   sync.Mutex
	open map[ovs.Nonce]question
}

type question struct {
	ofport, size int
	answered     chan<- ovs.Answer
}

func newExchange(w Wire) *exchange { return &exchange{wire: w, open: map[ovs.Nonce]question{}} }

// hear receives answers until the wire fails. It ignores an answer that nobody waits for,
// that came by another tunnel, or whose size differs from the request's.
func (x *exchange) hear() {
	for {
		a, err := x.wire.Receive()
		if err != nil {
			return
		}
		x.mu.Lock()
		q, ok := x.open[a.Nonce]
		if ok && q.ofport == a.OFPort && q.size == a.Size {
			delete(x.open, a.Nonce)
			q.answered <- a // the channel has room for all answers
		}
		x.mu.Unlock()
	}
}

// round is the result of one round.
type round struct {
	arrived map[int]bool
	told    int // MTU of the peer's interface in bytes
}

// round sends packets of the given sizes to a peer, in up to times tries, and a small one
// at the end of each try. A size counts as lost only if every small packet came back. On
// a path that loses small packets too, lost large ones prove nothing.
func (x *exchange) round(ctx context.Context, ofport, times int, sizes ...int) (round, error) {
	r := round{arrived: map[int]bool{}}
	sizes = falling(sizes)
	answers := make(chan ovs.Answer, times*(len(sizes)+1))
	asked := map[ovs.Nonce]int{} // size by nonce; 0 for the small one
	defer func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		for n := range asked {
			delete(x.open, n)
		}
	}()
	small := 0
	// wait receives answers until all have arrived, for d at most. Once all small probes
	// are back, it waits only restTime more.
	wait := func(d time.Duration, back func() bool) error {
		t := time.NewTimer(d)
		defer t.Stop()
		for !back() || len(r.arrived) < len(sizes) {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-t.C:
				return nil
			case a := <-answers:
				r.told = a.MTU
				if size := asked[a.Nonce]; size > 0 {
					r.arrived[size] = true
				} else if small++; back() {
					t.Reset(restTime)
				}
			}
		}
		return nil
	}
	for try := range times {
		for _, size := range append(slices.DeleteFunc(slices.Clone(sizes), func(s int) bool { return r.arrived[s] }), 0) {
			var n ovs.Nonce
			_, _ = rand.Read(n[:]) // never fails
			bytes := ovs.MinProbe
			if size > 0 {
				bytes = size - outer
			}
			asked[n] = size
			x.mu.Lock()
			x.open[n] = question{ofport: ofport, size: bytes, answered: answers}
			x.mu.Unlock()
			if err := x.wire.Send(ofport, bytes, n); err != nil {
				return r, err
			}
		}
		if err := wait(answerTime, func() bool { return small > try }); err != nil {
			return r, err
		}
		if len(r.arrived) == len(sizes) && small > 0 {
			return r, nil
		}
	}
	if small > 0 && small < times { // answers may be late on a busy machine
		if err := wait(lateTime, func() bool { return small == times }); err != nil {
			return r, err
		}
	}
	switch {
	case small == 0 && len(r.arrived) == 0:
		return r, errSilent
	case small < times:
		return r, errUnsure
	}
	return r, nil
}

// search returns the size of the largest packet that arrives. low is known to arrive (0
// if unknown), and high is known not to. search returns 0 if not even Least arrives.
func (x *exchange) search(ctx context.Context, ofport, low, high int) (int, error) {
	if low == 0 {
		r, err := x.round(ctx, ofport, tries, Least, high)
		if err != nil {
			return 0, err
		}
		if r.arrived[high] {
			return 0, errOdd
		}
		if !r.arrived[Least] {
			if r, err = x.round(ctx, ofport, lastTries, Least); err == nil && r.arrived[Least] {
				err = errOdd
			}
			return 0, err
		}
		low = Least
	}
	top := high
	for high-low > 1 {
		sizes := between(low, high)
		r, err := x.round(ctx, ofport, tries, sizes...)
		if err != nil {
			return 0, err
		}
		for _, s := range sizes { // ascending
			if r.arrived[s] {
				low = s
			}
		}
		for _, s := range slices.Backward(sizes) {
			if s > low {
				high = s
			}
		}
	}
	r, err := x.round(ctx, ofport, lastTries, low, low+1, top)
	if err == nil && (!r.arrived[low] || r.arrived[low+1] || r.arrived[top]) {
		err = errOdd
	}
	return low, err
}

// between returns sizes that divide the range between low and high, in ascending order.
func between(low, high int) []int {
	n := min(sizesAtOnce, high-low-1)
	sizes := make([]int, 0, n)
	for i := range n {
		sizes = append(sizes, low+(i+1)*(high-low)/(n+1))
	}
	return slices.Compact(sizes)
}
