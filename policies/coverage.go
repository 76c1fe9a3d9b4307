package policies

import (
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/cover"
)

// Coverage is what of a mesh repository's Rego its tests reached. Only lines
// that do something count: heads of rules and expressions, not comments,
// packages, imports and `some`. Test files are not in it.
type Coverage struct {
	Files      []FileCoverage `json:"files"` // by name; never null
	Covered    int            `json:"covered"`
	NotCovered int            `json:"not_covered"`
	// Percent is of the lines that count; 100 where none does.
	Percent float64 `json:"percent"`
}

// FileCoverage is the coverage of one file, in lines. A line counts once: one
// of which only a part was reached is not covered.
type FileCoverage struct {
	File       string      `json:"file"`
	Covered    int         `json:"covered"`
	NotCovered int         `json:"not_covered"`
	Percent    float64     `json:"percent"`
	Uncovered  []LineRange `json:"uncovered"` // in order; never null
}

// LineRange is a range of lines, the last included. Lines count from 1.
type LineRange struct {
	From int `json:"from"`
	To   int `json:"to"`
}

// NewCoverage sums up files.
func NewCoverage(files []FileCoverage) Coverage {
	c := Coverage{Files: append([]FileCoverage{}, files...)}
	slices.SortFunc(c.Files, func(a, b FileCoverage) int { return strings.Compare(a.File, b.File) })
	for _, f := range c.Files {
		c.Covered += f.Covered
		c.NotCovered += f.NotCovered
	}
	c.Percent = percent(c.Covered, c.NotCovered)
	return c
}

// Below reports whether less than threshold percent of the lines are covered.
// It compares what was counted and not what was rounded.
func (c Coverage) Below(threshold float64) bool {
	return float64(c.Covered)*100 < threshold*float64(c.Covered+c.NotCovered)
}

func percent(covered, not int) float64 {
	if covered+not == 0 {
		return 100
	}
	return float64(covered) * 100 / float64(covered+not)
}

// coverage reads what seen has of the modules of a program. Which lines count is
// asked without it, so that their number does not depend on the tests: OPA tells
// of a `some … in …` only where it was reached.
func coverage(seen *cover.Cover, program map[string]*ast.Module) *Coverage {
	report, all := seen.Report(program), cover.New().Report(program)
	var files []FileCoverage
	for _, path := range slices.Sorted(maps.Keys(program)) {
		files = append(files, fileCoverage(path, rows(all.Files[path].NotCovered), rows(report.Files[path].NotCovered)))
	}
	c := NewCoverage(files)
	return &c
}

func fileCoverage(path string, counted, missed map[int]bool) FileCoverage {
	f := FileCoverage{File: path, Covered: len(counted) - len(missed), NotCovered: len(missed), Uncovered: []LineRange{}}
	f.Percent = percent(f.Covered, f.NotCovered)
	for _, row := range slices.Sorted(maps.Keys(missed)) {
		if n := len(f.Uncovered); n > 0 && f.Uncovered[n-1].To == row-1 {
			f.Uncovered[n-1].To = row
			continue
		}
		f.Uncovered = append(f.Uncovered, LineRange{row, row})
	}
	return f
}

func rows(ranges []cover.Range) map[int]bool {
	out := map[int]bool{}
	for _, r := range ranges {
		for row := r.Start.Row; row <= r.End.Row; row++ {
			out[row] = true
		}
	}
	return out
}
