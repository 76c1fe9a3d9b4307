package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"meshseal/mesh"
	"meshseal/mesh/gitsource"
	"meshseal/mesh/sarif"
	"meshseal/snapshot"
)

func lintCommand() *cobra.Command {
	var repo, commit string
	format := lintOutput{"table"}
	c := &cobra.Command{
		Use:   "lint",
		Short: "Judge a mesh repository and tell all that is wrong with it",
		Long: `Judge the mesh repository as a build does, and tell each fault, each finding of
the guardrails, built in or of the repository, and each notice, with its place.
What a waiver sets aside is told too, as suppressed.

It reads the work tree as if it were committed now, so that an editor or a check
can run it before; --commit judges a commit instead, at the commit's time.
-o sarif writes SARIF 2.1.0 for code scanning.

Exit codes: 0 it builds; 1 something refuses the build; 2 there is no mesh
repository, or wrong usage.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			fsys, at, err := lintSource(repo, commit)
			if err != nil {
				return err
			}
			found, err := mesh.LintRepository(fsys, at)
			if err != nil {
				return fmt.Errorf("%s: %w; --repo names the folder with meshseal.yaml, and meshseal init makes one", repo, err)
			}
			if err := format.write(c.OutOrStdout(), found, repo); err != nil {
				return err
			}
			if found.Failed() > 0 {
				return finding(nil)
			}
			return nil
		},
	}
	c.Flags().StringVar(&repo, "repo", ".", "the mesh repository")
	c.Flags().StringVar(&commit, "commit", "", "judge this commit instead of the work tree")
	c.Flags().VarP(&format, "output", "o", "how to write the result: table, json, yaml or sarif")
	return c
}

// lintSource is the work tree, or a commit of it.
func lintSource(repo, commit string) (fs.FS, snapshot.Commit, error) {
	if commit == "" {
		return os.DirFS(repo), snapshot.Commit{Time: time.Now()}, nil
	}
	source, err := gitsource.Open(repo, commit)
	if err != nil {
		return nil, snapshot.Commit{}, err
	}
	return source.FS(), source.Commit(), nil
}

// lintOutput is output, and sarif.
type lintOutput struct{ output }

func (o *lintOutput) Set(s string) error {
	if s == "sarif" {
		o.output = "sarif"
		return nil
	}
	if err := o.output.Set(s); err != nil {
		return fmt.Errorf("%q: use table, json, yaml or sarif", s)
	}
	return nil
}

func (o *lintOutput) write(w io.Writer, l mesh.Lint, repo string) error {
	if o.output == "sarif" {
		root, err := belowGit(repo)
		if err != nil {
			return err
		}
		return sarif.Write(w, l, sarif.Config{Version: version(), Root: root})
	}
	return o.output.write(w, viewLint(l), func(w io.Writer) error { return writeLint(w, l) })
}

// belowGit is where a folder stands in its Git repository; empty for the top of
// one, and for a folder in none.
func belowGit(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for at := abs; ; at = filepath.Dir(at) {
		if _, err := os.Lstat(filepath.Join(at, ".git")); err == nil {
			below, err := filepath.Rel(at, abs)
			if below == "." {
				below = ""
			}
			return filepath.ToSlash(below), err
		}
		if at == filepath.Dir(at) {
			return "", nil
		}
	}
}

// writeLint writes each result as a compiler does, and a last line of numbers.
func writeLint(w io.Writer, l mesh.Lint) error {
	suppressed, notes := 0, 0
	for _, r := range l.Results {
		level := string(r.Level)
		switch {
		case r.Suppressed != nil:
			level = "suppressed"
			suppressed++
		case r.Level == mesh.LevelNote:
			notes++
		}
		fmt.Fprintf(w, "%s: %s: %s: ", r.At, level, r.Code)
		if r.Where != "" {
			fmt.Fprintf(w, "%s: ", r.Where)
		}
		fmt.Fprintln(w, r.Text)
		switch {
		case r.Suppressed != nil:
			fmt.Fprintf(w, "  waived until %s (%s): %s\n", r.Suppressed.Until.UTC().Format(time.DateOnly), r.Suppressed.At, r.Suppressed.Reason)
		case r.Mend != "":
			fmt.Fprintln(w, "  mend:", r.Mend)
		}
	}
	_, err := fmt.Fprintf(w, "%d refuse the build, %d suppressed, %d notes\n", l.Failed(), suppressed, notes)
	return err
}

type lintView struct {
	Results []lintResultView `json:"results"`
}

type lintResultView struct {
	Code       string           `json:"code"`
	Level      string           `json:"level"`
	File       string           `json:"file"`
	Line       int              `json:"line,omitempty"`
	Column     int              `json:"column,omitempty"`
	Proxy      string           `json:"proxy,omitempty"`
	Type       string           `json:"type,omitempty"`
	Resource   string           `json:"resource,omitempty"`
	Workload   string           `json:"workload,omitempty"`
	Field      string           `json:"field,omitempty"`
	Text       string           `json:"text"`
	Mend       string           `json:"mend,omitempty"`
	Suppressed *suppressionView `json:"suppressed,omitempty"`
}

type suppressionView struct {
	Reason string `json:"reason"`
	Until  string `json:"until"` // a day
}

func viewLint(l mesh.Lint) lintView {
	v := lintView{Results: []lintResultView{}}
	for _, r := range l.Results {
		one := lintResultView{
			Code: r.Code, Level: string(r.Level), File: r.At.File, Line: r.At.Line, Column: r.At.Column,
			Proxy: r.Proxy, Type: r.Type, Resource: r.Resource, Workload: r.Workload, Field: r.Field, Text: r.Text, Mend: r.Mend,
		}
		if r.Suppressed != nil {
			one.Suppressed = &suppressionView{r.Suppressed.Reason, r.Suppressed.Until.UTC().Format(time.DateOnly)}
		}
		v.Results = append(v.Results, one)
	}
	return v
}
