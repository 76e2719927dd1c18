package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Whoever has connected to an agent that ends is answered, and whoever comes
// later finds no socket: nobody's call is lost between the two.
func TestServeAnswersWhoHasConnected(t *testing.T) {
	for round := range 20 {
		path := filepath.Join(t.TempDir(), "s.sock")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() {
			served <- serve(ctx, pluginServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(w, r.Body)
			})), l)
		}()
		var wg sync.WaitGroup
		answered := make(chan int, 1000)
		for c := range 8 {
			wg.Go(func() {
				client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
					return net.Dial("unix", path)
				}}}
				for i := range 1000 {
					want := fmt.Sprint(c, i)
					resp, err := client.Post("http://x/", "text/plain", strings.NewReader(want))
					if errors.Is(err, fs.ErrNotExist) {
						return
					}
					if err != nil {
						t.Errorf("round %d: a call was lost: %v", round, err)
						return
					}
					got, err := io.ReadAll(resp.Body)
					_ = resp.Body.Close()
					if err != nil || string(got) != want {
						t.Errorf("round %d: %q, %v", round, got, err)
					}
					select {
					case answered <- i:
					default:
					}
				}
			})
		}
		<-answered // they are at it
		cancel()
		wg.Wait()
		select {
		case err := <-served:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("it does not end")
		}
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the socket is still there: %v", err)
		}
	}
}
