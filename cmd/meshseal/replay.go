package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"meshseal/extauthz"
)

func replayCommand() *cobra.Command {
	var format *output
	trust := trustFlags{}
	c := &cobra.Command{
		Use:   "replay SNAPSHOT RECORDS...",
		Short: "Show whose answer a snapshot would change, by what was recorded",
		Long: `Decide the requests of the files RECORDS again, as if the snapshot file SNAPSHOT
had been in force and every Envoy had its configuration, and show those that get
another answer, in groups. "-" reads standard input. Listeners, filter chains and
clusters are found by their names; the route is matched again.

Who called is taken as recorded. What was denied for something that a record does
not hold, such as a certificate or a mark, stays denied. Where an answer depends
on what was left out of the record it is unknown.

The signatures of the snapshot are looked at only with --key.

Exit codes: 0 no answer changes; 1 one does, or the snapshot is not verified; 2 a
file cannot be read, or wrong usage; 3 none changes that is known, and some are
unknown.`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			draft, err := trust.read(args[0])
			if err != nil {
				return err
			}
			x, err := extauthz.NewExplainer(draft, extauthz.ExplainConfig{AnyTime: true})
			if err != nil {
				return err
			}
			report, err := replay(c.Context(), extauthz.NewReplay(x), c.InOrStdin(), args[1:])
			if err != nil {
				return err
			}
			if err := format.write(c.OutOrStdout(), report, func(w io.Writer) error { return writeReplay(w, report) }); err != nil {
				return err
			}
			switch {
			case report.Changed > 0:
				return finding(nil)
			case report.Unknown > 0:
				return &exitError{code: exitUnknown}
			}
			return nil
		},
	}
	trust.flags(c)
	format = outputFlag(c)
	return c
}

func replay(ctx context.Context, r *extauthz.Replay, stdin io.Reader, files []string) (extauthz.ReplayReport, error) {
	for _, name := range files {
		records := 0
		if err := eachRecord(stdin, name, func(rec extauthz.Record) error {
			records++
			if err := ctx.Err(); err != nil {
				return err
			}
			return r.Add(ctx, rec)
		}); err != nil {
			return extauthz.ReplayReport{}, err
		}
		if records == 0 {
			// To say that nothing changes would be to say too much.
			return extauthz.ReplayReport{}, fmt.Errorf("%s: it has no record", name)
		}
	}
	return r.Report(), nil
}

// eachRecord reads the records of a file in their order.
func eachRecord(stdin io.Reader, name string, do func(extauthz.Record) error) error {
	from := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		from = f
	}
	d := json.NewDecoder(bufio.NewReaderSize(from, 1<<20))
	for n := 1; ; n++ {
		var r extauthz.Record
		err := d.Decode(&r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil && r.DecisionID == "" {
			err = errors.New("it has no decision_id")
		}
		if unread := (*os.PathError)(nil); err != nil && !errors.As(err, &unread) {
			err = fmt.Errorf("%w; docs/records.md has the shape, one record a line", jsonFault(err))
		}
		if err == nil {
			err = do(r)
		}
		if err != nil {
			return fmt.Errorf("%s: record %d: %w", name, n, err)
		}
	}
}

// recorded is the question of one record of a file.
func recorded(stdin io.Reader, name, id string) (extauthz.Question, error) {
	var found []extauthz.Record
	all := 0
	err := eachRecord(stdin, name, func(r extauthz.Record) error {
		all++
		if (id == "" || r.DecisionID == id) && len(found) < 2 {
			found = append(found, r)
		}
		return nil
	})
	switch {
	case err != nil:
		return extauthz.Question{}, err
	case len(found) == 0 && id != "":
		return extauthz.Question{}, fmt.Errorf("%s: none of its %d records is of decision %s", name, all, id)
	case len(found) == 0:
		return extauthz.Question{}, fmt.Errorf("%s: it has no record", name)
	case len(found) > 1 && id == "":
		return extauthz.Question{}, fmt.Errorf("%s: it has %d records; --id says which", name, all)
	}
	q, err := extauthz.QuestionOf(found[0])
	if err != nil {
		return q, fmt.Errorf("%s: %w", name, err)
	}
	return q, nil
}

func writeReplay(w io.Writer, r extauthz.ReplayReport) error {
	fmt.Fprintf(w, "%d records: %d same, %d changed, %d unknown, %d skipped\n", r.Records, r.Same, r.Changed, r.Unknown, r.Skipped)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(r.Changes) > 0 {
		fmt.Fprintln(t, "\nCOUNT\tCALLER -> PROXY\tROUTE\tBEFORE\tAFTER\tEXAMPLE\tWHY")
	}
	for _, c := range r.Changes {
		after := word(c.After)
		if c.Result {
			after += ", another result of the policy"
		}
		writeChange(t, c, after)
	}
	if len(r.Unsure) > 0 {
		fmt.Fprintln(t, "\nCOUNT\tCALLER -> PROXY\tROUTE\tBEFORE\tAFTER\tEXAMPLE\tWHY")
	}
	for _, c := range r.Unsure {
		writeChange(t, c, "unknown")
	}
	return t.Flush()
}

func writeChange(w io.Writer, c extauthz.Change, after string) {
	route := cmp.Or(c.Route, "-")
	if c.RouteAfter != "" {
		route += " -> " + c.RouteAfter
	}
	cells := []string{fmt.Sprint(c.Count), cmp.Or(c.Caller, "?") + " -> " + cmp.Or(c.Proxy, "?"), route, word(c.Before), after, c.Example, c.Why}
	for i := range cells {
		cells[i] = strings.ReplaceAll(visible(cells[i]), "\t", " ")
	}
	fmt.Fprintln(w, strings.Join(cells, "\t"))
}

// word is a reason as an answer.
func word(r extauthz.Reason) string {
	if r == extauthz.OK {
		return "allow"
	}
	return "deny " + string(r)
}
