package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// outputFormat is the value of -o.
type outputFormat string

const (
	outputTable outputFormat = "table"
	outputJSON  outputFormat = "json"
)

// String, Set and Type implement pflag.Value.
func (o *outputFormat) String() string { return string(*o) }

func (o *outputFormat) Set(s string) error {
	switch outputFormat(s) {
	case outputTable, outputJSON:
		*o = outputFormat(s)
		return nil
	}
	return fmt.Errorf("choose table or json")
}

// Type returns the name of the value in help texts.
func (o *outputFormat) Type() string { return "table|json" }

// outputFlag adds the flag -o to cmd.
func outputFlag(cmd *cobra.Command) *outputFormat {
	format := outputTable
	cmd.Flags().VarP(&format, "output", "o", "output format")
	return &format
}

// writeJSON prints a value as one indented JSON document.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// namesakes counts the hosts per name, because names need not be unique.
type namesakes map[string]int

// shown returns a host's name. It appends the start of the id if several hosts have the
// name.
func (n namesakes) shown(name, id string) string {
	if n[name] > 1 {
		name += " (" + id[:min(8, len(id))] + ")"
	}
	return name
}

// writeTable prints aligned columns with headings.
func writeTable(w io.Writer, head []string, rows [][]string) error {
	tw := tabwriter.NewWriter(w, 0, 4, 3, ' ', 0)
	fmt.Fprintln(tw, strings.Join(head, "\t"))
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = oneLine(cell)
			if cells[i] == "" {
				cells[i] = "-"
			}
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	return tw.Flush()
}
