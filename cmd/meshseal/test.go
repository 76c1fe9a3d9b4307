package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"meshseal/mesh"
	"meshseal/mesh/gitsource"
	"meshseal/policies"
)

func testCommand() *cobra.Command {
	var format *output
	var repo, commit, pattern string
	var coverage bool
	var threshold float64
	c := &cobra.Command{
		Use:   "test",
		Short: "Run the *_test.rego of a mesh repository",
		Long: `Run every test_ rule of policies/*_test.rego with the built-ins that a request
has, and of guardrails/*_test.rego with those that a guardrail has. It reads the
work tree, so that a rule can be tested before it is committed; --commit reads a
commit instead.

--coverage also tells which lines of the repository's Rego the tests reached, of
policies and guardrails together; test files are not counted. --threshold demands
a part of them, in percent.

Exit codes: 0 all passed; 1 a test failed, there is none, or too little is
covered; 2 the policies cannot be read, or wrong usage.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			demanded := c.Flags().Changed("threshold")
			if !(threshold >= 0 && threshold <= 100) {
				return fmt.Errorf("--threshold %v: want percent, 0 to 100", threshold)
			}
			fsys := os.DirFS(repo)
			if _, err := os.Stat(repo); err != nil {
				return fmt.Errorf("%w: --repo names a mesh repository, and meshseal init makes one", err)
			}
			if commit != "" {
				source, err := gitsource.Open(repo, commit)
				if err != nil {
					return err
				}
				fsys = source.FS()
			}
			report, err := runTests(c.Context(), fsys, policies.TestOptions{Run: pattern, Coverage: coverage || demanded})
			if errors.Is(err, policies.ErrNoTests) {
				if pattern != "" {
					err = fmt.Errorf("no tests: none has a full name that matches --run %q; without --run they are all shown", pattern)
				}
				return finding(err)
			}
			if err != nil {
				if _, none := fs.Stat(fsys, "meshseal.yaml"); errors.Is(none, fs.ErrNotExist) {
					err = fmt.Errorf("%w; --repo names the folder with meshseal.yaml, and there is none in %s", err, repo)
				}
				return err
			}
			if err := format.write(c.OutOrStdout(), report, func(w io.Writer) error { return writeTestReport(w, report) }); err != nil {
				return err
			}
			if report.Failed() > 0 {
				return finding(nil)
			}
			if demanded && report.Coverage.Below(threshold) {
				return finding(fmt.Errorf("the tests cover %s of the Rego, less than the threshold of %v%%", share(report.Coverage.Percent), threshold))
			}
			return nil
		},
	}
	c.Flags().StringVar(&repo, "repo", ".", "the mesh repository")
	c.Flags().StringVar(&commit, "commit", "", "test this commit instead of the work tree")
	c.Flags().StringVar(&pattern, "run", "", "only tests whose full name matches this regular expression")
	c.Flags().BoolVar(&coverage, "coverage", false, "tell which lines of the Rego the tests reached")
	c.Flags().Float64Var(&threshold, "threshold", 0, "the least coverage, in percent; tells the coverage too")
	format = outputFlag(c)
	return c
}

// runTests runs the tests of the policies and of the guardrails. Either may have
// none.
func runTests(ctx context.Context, fsys fs.FS, opts policies.TestOptions) (policies.Report, error) {
	files, err := mesh.Policies(fsys)
	if err != nil {
		return policies.Report{}, err
	}
	rules, err := mesh.Guardrails(fsys)
	if err != nil {
		return policies.Report{}, err
	}
	report, err := policies.Test(ctx, files, opts)
	if err != nil && !errors.Is(err, policies.ErrNoTests) {
		return report, err
	}
	more, noRules := policies.TestGuardrails(ctx, rules, opts)
	if report.Coverage != nil && more.Coverage != nil {
		both := policies.NewCoverage(append(more.Coverage.Files, report.Coverage.Files...))
		report.Coverage = &both
	}
	if noRules == nil {
		report.Results, err = append(more.Results, report.Results...), nil
	} else if !errors.Is(noRules, policies.ErrNoTests) {
		return report, noRules
	}
	return report, err
}

func writeTestReport(w io.Writer, report policies.Report) error {
	passed, skipped := 0, 0
	for _, r := range report.Results {
		verdict := "FAIL"
		switch {
		case r.Pass:
			verdict = "PASS"
			passed++
		case r.Skip:
			verdict = "SKIP"
			skipped++
		}
		fmt.Fprintf(w, "%s %s.%s (%s:%d)\n", verdict, r.Package, r.Name, r.File, r.Line)
		if r.Err != "" {
			fmt.Fprintln(w, "     "+r.Err)
		}
		if r.Output != "" {
			fmt.Fprint(w, "     "+strings.ReplaceAll(strings.TrimRight(r.Output, "\n"), "\n", "\n     ")+"\n")
		}
	}
	if _, err := fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", passed, report.Failed(), skipped); err != nil || report.Coverage == nil {
		return err
	}
	return writeCoverage(w, *report.Coverage)
}

// writeCoverage writes a line for each file, and a last one of all.
func writeCoverage(w io.Writer, c policies.Coverage) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nFILE\tCOVERED\tNOT COVERED\tPERCENT\tUNCOVERED LINES")
	for _, f := range c.Files {
		ranges := make([]string, len(f.Uncovered))
		for i, r := range f.Uncovered {
			if ranges[i] = fmt.Sprint(r.From); r.To > r.From {
				ranges[i] = fmt.Sprintf("%d-%d", r.From, r.To)
			}
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%s\t%s\n", f.File, f.Covered, f.NotCovered, share(f.Percent), cmp.Or(strings.Join(ranges, ","), "-"))
	}
	fmt.Fprintf(t, "all\t%d\t%d\t%s\t\n", c.Covered, c.NotCovered, share(c.Percent))
	return t.Flush()
}

// share is percent with one decimal, never rounded up: 100.0% is all.
func share(percent float64) string {
	return fmt.Sprintf("%.1f%%", math.Floor(percent*10)/10)
}
