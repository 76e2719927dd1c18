package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// sample is what one thing took, run by run.
type sample struct {
	name  string
	times []time.Duration
}

// measure adds the time that f takes.
func (s *sample) measure(f func() error) error {
	start := time.Now()
	if err := f(); err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	s.times = append(s.times, time.Since(start))
	return nil
}

// quantile is the value below which a share q of the runs lies.
func (s *sample) quantile(q float64) time.Duration {
	sorted := slices.Clone(s.times)
	slices.Sort(sorted)
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// table prints samples, each compared with the one it names as its base.
func table(out io.Writer, title string, rows ...[2]*sample) {
	fmt.Fprintf(out, "\n%s (%d runs each, in turn)\n", title, len(rows[0][0].times))
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "\tp50 ms\tp95 ms\tp50 ratio\tp95 ratio\tbeside")
	for _, r := range rows {
		s, base := r[0], r[1]
		p50, p95 := s.quantile(0.5), s.quantile(0.95)
		fmt.Fprintf(w, "%s\t%s\t%s", s.name, ms(p50), ms(p95))
		if base != nil {
			fmt.Fprintf(w, "\t%.2f\t%.2f\t%s", float64(p50)/float64(base.quantile(0.5)), float64(p95)/float64(base.quantile(0.95)), base.name)
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush() // standard output
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d)/float64(time.Millisecond)) }

// median of any figures.
func median(values []float64) float64 {
	sorted := slices.Clone(values)
	slices.Sort(sorted)
	return sorted[len(sorted)/2]
}
