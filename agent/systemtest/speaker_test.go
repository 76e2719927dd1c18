package systemtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// outsideNamespace is that of the world behind the underlay.
var outsideNamespace = "/run/netns/" + lab.Prefix + "-" + lab.OutsideHost

// speakTimeout bounds one question and its answer.
const speakTimeout = 2 * time.Second

// answer listens on a port in a namespace until the test ends, and answers each
// line that comes with the address that it came from.
func answer(t testing.TB, namespace, proto, addr string) {
	t.Helper()
	err := inNamespace(namespace, func() error {
		if proto == "udp" {
			conn, err := net.ListenPacket("udp4", addr)
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = conn.Close() })
			go answerDatagrams(conn)
			return nil
		}
		l, err := net.Listen("tcp4", addr)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = l.Close() })
		go answerConnections(l)
		return nil
	})
	if err != nil {
		t.Fatalf("answer on %s %s: %v", proto, addr, err)
	}
}

func answerDatagrams(conn net.PacketConn) {
	buf := make([]byte, 1500)
	for {
		_, from, err := conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = conn.WriteTo([]byte(from.String()+"\n"), from) // who asked sees whether it came
		}
	}
}

func answerConnections(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close() //nolint:errcheck // the other end has gone
			lines := bufio.NewScanner(conn)
			for lines.Scan() {
				if _, err := fmt.Fprintln(conn, conn.RemoteAddr()); err != nil {
					return
				}
			}
		}()
	}
}

// speaker has a connection to one who answers.
type speaker struct {
	net.Conn
	lines *bufio.Reader
}

// dialFrom connects from within a namespace.
func dialFrom(namespace, proto, addr string) (*speaker, error) {
	var conn net.Conn
	err := inNamespace(namespace, func() (err error) {
		ctx, cancel := context.WithTimeout(context.Background(), speakTimeout)
		defer cancel()
		var d net.Dialer
		conn, err = d.DialContext(ctx, proto+"4", addr)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &speaker{Conn: conn, lines: bufio.NewReader(conn)}, nil
}

// ask gives the address as which the other end sees us.
func (s *speaker) ask() (string, error) { return s.askIn(speakTimeout) }

// askIn is ask with another time limit.
func (s *speaker) askIn(wait time.Duration) (string, error) {
	if err := s.SetDeadline(time.Now().Add(wait)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(s, "who am I"); err != nil {
		return "", err
	}
	line, err := s.lines.ReadString('\n')
	if err != nil {
		return "", err
	}
	host, _, err := net.SplitHostPort(strings.TrimSpace(line))
	return host, err
}

// askFrom asks once.
func askFrom(namespace, proto, addr string) (string, error) {
	s, err := dialFrom(namespace, proto, addr)
	if err != nil {
		return "", err
	}
	defer s.Close() //nolint:errcheck // the answer is here
	return s.ask()
}
