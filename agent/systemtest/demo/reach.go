package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"text/tabwriter"
	"time"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// patience bounds how long a thing that should work may take until it does.
const patience = 10 * time.Second

// roundTrip finds the average in busybox ping's and iputils' summary.
var roundTrip = regexp.MustCompile(`= [0-9.]+/([0-9.]+)/`)

// address asks the agent for a container's address.
func address(ctx context.Context, c container) (string, error) {
	out, err := c.host.Exec(ctx, "socketplane", "info", c.name, "-o", "json")
	if err != nil {
		return "", err
	}
	var e struct {
		IP string `json:"ip"`
	}
	if err := json.Unmarshal([]byte(out), &e); err != nil {
		return "", fmt.Errorf("what info says of %s: %w", c.name, err)
	}
	return e.IP, nil
}

// matrix pings and fetches from each container to each other, and prints what
// came of it. It gives the number of pairs that failed.
func matrix(ctx context.Context, out io.Writer, containers []container) (failed int) {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprint(w, "  FROM \\ TO")
	for _, to := range containers {
		fmt.Fprintf(w, "\t%s (%s, %s)", to.name, to.host.Name, to.ip)
	}
	fmt.Fprintln(w)
	reached := 0
	for _, from := range containers {
		fmt.Fprintf(w, "  %s (%s)", from.name, from.host.Name)
		for _, to := range containers {
			if from.name == to.name {
				fmt.Fprint(w, "\t-")
				continue
			}
			cell, err := reach(ctx, from, to.ip, "http://"+to.ip+"/")
			if err != nil {
				cell = "FAILED: " + err.Error()
				failed++
			} else {
				reached++
			}
			fmt.Fprint(w, "\t", cell)
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush() // standard output; nobody is left to tell
	fmt.Fprintf(out, "  %d of %d directed pairs reached, ping and TCP\n", reached, reached+failed)
	return failed
}

// outside pings the world from each container. It gives the number that failed.
func outside(ctx context.Context, out io.Writer, containers []container) (failed int) {
	for _, c := range containers {
		cell, err := reach(ctx, c, lab.Outside.String(), "")
		if err != nil {
			cell = "FAILED: " + err.Error()
			failed++
		}
		fmt.Fprintf(out, "  %s (%s) -> %s: %s\n", c.name, c.host.Name, lab.Outside, cell)
	}
	return failed
}

// reach pings an address from a container, and fetches a page when one is named.
func reach(ctx context.Context, from container, ip, url string) (string, error) {
	var said string
	err := retry(ctx, func() (err error) {
		said, err = from.host.Exec(ctx, "docker", "exec", from.name, "ping", "-c", "3", "-i", "0.2", "-W", "2", "-q", ip)
		return err
	})
	if err != nil {
		return "", err
	}
	cell := "ping"
	if m := roundTrip.FindStringSubmatch(said); m != nil {
		cell += " " + m[1] + " ms"
	}
	if url == "" {
		return cell, nil
	}
	start := time.Now()
	if _, err := from.host.Exec(ctx, "docker", "exec", from.name, "timeout", "5", "wget", "-q", "-O", "/dev/null", url); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, page in %d ms", cell, time.Since(start).Milliseconds()), nil
}

// retry calls f until it succeeds or patience is at its end: hosts hear of a
// new endpoint a moment after it is there.
func retry(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}
