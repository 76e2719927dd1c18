package link

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// watchRetry is the pause between attempts to subscribe.
const watchRetry = time.Second

// WatchGone calls gone with the name of each host end that disappears, for any reason;
// most disappear with the namespace of their peer. The calls are hints: the kernel drops
// notifications if the socket buffer is full. WatchGone returns nil when ctx ends.
func (l *Links) WatchGone(ctx context.Context, gone func(host string)) error {
	said := false
	for ctx.Err() == nil {
		err := l.watchOnce(ctx, gone)
		if ctx.Err() != nil {
			break
		}
		if !said {
			l.log.Warn("interfaces that go away are found later", "err", err)
			said = true
		}
		retry := time.NewTimer(watchRetry)
		select {
		case <-ctx.Done():
		case <-retry.C:
		}
		retry.Stop()
	}
	return nil
}

func (l *Links) watchOnce(ctx context.Context, gone func(host string)) error {
	updates := make(chan netlink.LinkUpdate, 64)
	done := make(chan struct{})
	defer close(done)
	var failed error
	err := netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{
		ErrorCallback: func(err error) { failed = err }, // called before updates is closed
	})
	if err != nil {
		return fmt.Errorf("subscribe to interfaces: %w", err)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case u, ok := <-updates:
			if !ok {
				return fmt.Errorf("follow the interfaces: %w", failed)
			}
			if u.Header.Type == unix.RTM_DELLINK && strings.HasPrefix(u.Attrs().Name, HostPrefix) {
				gone(u.Attrs().Name)
			}
		}
	}
}
