package systemtest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// exchangeEvery is how often an exchange asks.
const exchangeEvery = 50 * time.Millisecond

// exchange asks over one connection again and again until the test ends.
type exchange struct {
	name     string
	answered atomic.Int64
	stop     func()
	failed   chan struct{} // closed with the first failure

	mu  sync.Mutex
	err error
}

// startExchange connects from a namespace. The other end has to see sees, always.
func startExchange(t testing.TB, name, namespace, proto, to, sees string) *exchange {
	t.Helper()
	s, err := dialFrom(namespace, proto, to)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	x := &exchange{name: name + " " + proto, failed: make(chan struct{})}
	end := make(chan struct{})
	var run sync.WaitGroup
	run.Go(func() {
		tick := time.NewTicker(exchangeEvery)
		defer tick.Stop()
		for {
			if err := x.ask(s, proto, sees); err != nil {
				select {
				case <-end:
				default:
					x.mu.Lock()
					x.err = fmt.Errorf("%s after %d answers: %w", x.name, x.answered.Load(), err)
					x.mu.Unlock()
					close(x.failed)
				}
				return
			}
			x.answered.Add(1)
			select {
			case <-tick.C:
			case <-end:
				return
			}
		}
	})
	x.stop = sync.OnceFunc(func() {
		close(end)
		_ = s.Close()
		run.Wait()
	})
	t.Cleanup(x.stop)
	return x
}

// ask puts one question. TCP loses nothing, so it waits as long as TCP would; a
// datagram may be lost where the switch's ports change, and is sent again.
func (x *exchange) ask(s *speaker, proto, sees string) error {
	tries, wait := 1, testTimeout
	if proto == "udp" {
		tries, wait = 20, time.Second
	}
	var err error
	for range tries {
		var saw string
		saw, err = s.askIn(wait)
		if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
			return err
		}
		if err == nil && saw != sees {
			return fmt.Errorf("the other end sees %s, before %s", saw, sees)
		}
		if err == nil {
			return nil
		}
	}
	return err
}

// goOn waits until each exchange has had more answers, and ends the test if one
// has failed.
func goOn(t testing.TB, when string, all []*exchange) {
	t.Helper()
	const more = 10
	before := make([]int64, len(all))
	for i, x := range all {
		before[i] = x.answered.Load()
	}
	for i, x := range all {
		eventually(t, when+": "+x.name, func() error {
			select {
			case <-x.failed:
				x.mu.Lock()
				defer x.mu.Unlock()
				t.Errorf("%s: %v", when, x.err)
				return nil
			default:
			}
			if n := x.answered.Load() - before[i]; n < more {
				return fmt.Errorf("%d answers", n)
			}
			return nil
		})
	}
	if t.Failed() {
		t.FailNow()
	}
}

// Promise: a connection between a container and another host keeps its way, over
// tcp and udp, while that host's first container of the network comes and its last
// one goes, whoever began it and when; new ones work in each phase.
func TestConnectionsKeepTheirWay(t *testing.T) {
	const h1, h2 = "198.18.0.1", "198.18.0.2"
	makeNetwork(t, 1, "ways", "10.175.0.0/24")
	web := runContainer(t, 1, "ways", "ways-web", "-p", "18580:80", "-p", "15580:53/udp")
	for proto, port := range map[string]string{"tcp": ":80", "udp": ":53"} {
		answer(t, web.namespace(t), proto, port)
		answer(t, hostNamespace(2), proto, h2+":9475")
	}
	var all []*exchange
	begin := func(when string) {
		for proto, port := range map[string]string{"tcp": "18580", "udp": "15580"} {
			all = append(all,
				startExchange(t, "container to host, begun "+when, web.namespace(t), proto, h2+":9475", h1),
				startExchange(t, "host to published port, begun "+when, hostNamespace(2), proto, h1+":"+port, h2))
		}
	}
	begin("before")
	for round := range 3 {
		goOn(t, "h2 has no container", all)
		far := runContainer(t, 2, "ways", fmt.Sprintf("ways-far-%d", round))
		eventually(t, "h1 knows h2's container", func() error { return web.pings(t, far.ip) })
		goOn(t, "h2 has a container", all)
		if round < 2 {
			begin("with a container")
		}
		var direct []*exchange // to the container's own address, which a host reaches that has a container of the network
		for proto, port := range map[string]string{"tcp": "80", "udp": "53"} {
			direct = append(direct, startExchange(t, "host to container", hostNamespace(2), proto, net.JoinHostPort(web.ip, port), h2))
		}
		if err := web.pings(t, h2); err != nil {
			t.Error(err)
		}
		goOn(t, "new ones with a container", append(all, direct...))
		if round == 2 {
			restartAgent(t, 1)
			goOn(t, "h1's agent restarted", append(all, direct...))
		}
		for _, x := range direct {
			x.stop()
		}
		remove(t, 2, far.name)
		eventually(t, "the network is gone from h2", func() error {
			if try(t, 2, "ip", "link", "show", gatewayPort("ways")).code == 0 {
				return errors.New("its gateway is there")
			}
			return nil
		})
		if round < 2 {
			begin("after")
		}
	}
	goOn(t, "at last", all)
}

// longAnswer is more than a packet of any lab network carries.
const longAnswer = 4000

// Promise: answers over UDP that come in fragments arrive, by both ways in which a
// host that has the network asks.
func TestLongAnswersArrive(t *testing.T) {
	makeNetwork(t, 1, "waylong", "10.176.0.0/24")
	web := runContainer(t, 1, "waylong", "wl-web", "-p", "15680:54/udp")
	far := runContainer(t, 2, "waylong", "wl-far")
	eventually(t, "h1 knows h2's container", func() error { return web.pings(t, far.ip) })
	if err := inNamespace(web.namespace(t), func() error {
		conn, err := net.ListenPacket("udp4", ":54")
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = conn.Close() })
		go func() {
			buf := make([]byte, 2*longAnswer)
			for {
				_, from, err := conn.ReadFrom(buf)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					_, _ = conn.WriteTo(make([]byte, longAnswer), from) // who asked sees whether it came
				}
			}
		}()
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, to := range []string{"198.18.0.1:15680", web.ip + ":54"} {
			s, err := dialFrom(hostNamespace(2), "udp", to)
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, "a long answer from "+to, func() error {
				if err := s.SetDeadline(time.Now().Add(speakTimeout)); err != nil {
					return err
				}
				if _, err := s.Write([]byte("?")); err != nil {
					return err
				}
				n, err := s.Read(make([]byte, 2*longAnswer))
				if err == nil && n != longAnswer {
					err = fmt.Errorf("%d bytes", n)
				}
				return err
			})
			_ = s.Close()
		}
	}
}
