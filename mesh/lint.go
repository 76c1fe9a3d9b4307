package mesh

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"time"

	"meshseal/policies"
	"meshseal/snapshot"
)

// CodeFault is the code of a result that is a fault: something for which the
// repository cannot be read or built at all.
const CodeFault = "REPOSITORY_FAULT"

// Lint is what is to say about a mesh repository.
type Lint struct {
	// Results are faults, then findings, then notices.
	Results []LintResult
	// Rules has every rule that was judged by, and what the codes of faults and
	// notices mean; by code.
	Rules []LintRule
}

// LintRule is the meaning of a code.
type LintRule struct {
	policies.Rule
	Level Level
}

// Level says what a result does.
type Level string

const (
	LevelError Level = "error" // refuses the build, unless it is suppressed
	LevelNote  Level = "note"
)

// LintResult is one thing to say.
type LintResult struct {
	Code  string
	Level Level
	At    policies.Place // its file is never empty
	Text  string
	Mend  string // of a finding
	// Proxy, Type, Resource, Workload and Field are those of a finding, else empty.
	Proxy, Type, Resource, Workload, Field string
	Where                                  string       // of a finding: these in words
	Suppressed                             *Suppression // nil: it is not
}

// Suppression is the waiver that sets a finding aside.
type Suppression struct {
	Reason string
	Until  time.Time // a day, at whose beginning it is over
	At     policies.Place
}

// Failed is how many results refuse the build.
func (l Lint) Failed() int {
	n := 0
	for _, r := range l.Results {
		if r.Level == LevelError && r.Suppressed == nil {
			n++
		}
	}
	return n
}

// noticeRules are the codes of notices.
var noticeRules = []policies.Rule{
	{Code: noticeAuthzReplaced, Title: "An ext_authz filter was replaced", Text: "The filter of the file asks meshseal instead of whom it asked before.", Mend: "nothing; remove the filter from the file if the notice disturbs"},
	{Code: noticeListenerLeftOpen, Title: "A listener is left open", Text: "A waiver of LISTENER_OPEN leaves the listener without ext_authz.", Mend: "nothing, until the waiver ends"},
	{Code: NoticeRoutes, Title: "Routes became a resource of their own", Text: "A route table inside a listener is sealed and served by itself, so that a change of a route leaves the listener's connections alone.", Mend: "nothing; write a RouteConfiguration and rds if the notice disturbs"},
	{Code: NoticeSource, Title: "A file path became the ADS stream", Text: "A resource that the file takes from a path comes from the snapshot.", Mend: "nothing; write ads if the notice disturbs"},
	{Code: waiverUnused, Title: "A waiver sets nothing aside", Text: "A waiver that matches no finding would hide a later one.", Mend: "remove the waiver"},
}

// faultRule is the meaning of CodeFault.
var faultRule = policies.Rule{
	Code: CodeFault, Title: "The repository cannot be built", Text: "A file is missing, cannot be read, contradicts another one or holds what the build refuses.",
	Mend: "docs/mesh-repository.md describes each file",
}

// LintRepository judges the mesh repository in fsys as Build does, and keeps
// what refuses a build as results. at says where the files come from; of files
// that are no commit its Hash and Sequence are empty, and its Time is when
// waivers are judged.
//
// An error means that fsys holds no mesh repository, or cannot be read.
func LintRepository(fsys fs.FS, at snapshot.Commit) (Lint, error) {
	if _, err := fs.Stat(fsys, meshFile); err != nil {
		return Lint{}, fmt.Errorf("read %s: %w", meshFile, err)
	}
	if at.Hash == "" { // as if it were committed now
		at.Hash, at.Sequence = strings.Repeat("0", 40), 1
	}
	_, report, rules, err := build(fsys, at)
	out := Lint{Rules: rulesOf(rules)}
	if broken := new(GuardrailError); err != nil && !errors.As(err, &broken) {
		for _, f := range faults(fsys, err) {
			out.Results = append(out.Results, LintResult{Code: CodeFault, Level: LevelError, At: f.At, Text: f.Err.Error()})
		}
	}
	for _, f := range report.Findings {
		r := LintResult{
			Code: f.Code, Level: LevelError, At: f.At, Text: f.Text, Mend: f.Mend,
			Proxy: f.Proxy, Type: f.Type, Resource: f.Resource, Workload: f.Workload, Field: f.Field, Where: f.Where(),
		}
		if f.Waiver != nil {
			r.Suppressed = &Suppression{Reason: f.Waiver.Reason, Until: f.Waiver.Until, At: f.WaiverAt}
		}
		out.Results = append(out.Results, r)
	}
	for _, n := range report.Notices {
		out.Results = append(out.Results, LintResult{
			Code: n.Code, Level: LevelNote, Text: n.Text, At: policies.Place{File: n.File, Line: n.Line, Column: n.Column},
		})
	}
	return out, nil
}

func rulesOf(g *policies.Guardrails) []LintRule {
	out := []LintRule{{faultRule, LevelError}}
	for _, r := range g.Rules() {
		out = append(out, LintRule{r, LevelError})
	}
	for _, r := range noticeRules {
		out = append(out, LintRule{r, LevelNote})
	}
	slices.SortFunc(out, func(a, b LintRule) int { return strings.Compare(a.Code, b.Code) })
	return out
}

// faults takes a joined error apart.
func faults(fsys fs.FS, err error) []policies.FileError {
	if placed, ok := err.(*policies.FileError); ok {
		return []policies.FileError{*placed}
	}
	switch e := err.(type) {
	case interface{ Unwrap() []error }:
		var out []policies.FileError
		for _, inner := range e.Unwrap() {
			out = append(out, faults(fsys, inner)...)
		}
		return out
	case interface{ Unwrap() error }:
		if placed := new(policies.FileError); errors.As(err, &placed) {
			return faults(fsys, e.Unwrap())
		}
	}
	return []policies.FileError{unplaced(fsys, err)}
}

// begins is a file's path, and a line, at the beginning of an error's text.
var begins = regexp.MustCompile(`^(?:read )?([^:\s]+?)/?: `)

// unplaced gives an error the file that its text begins with, or else the file
// that every repository has.
func unplaced(fsys fs.FS, err error) policies.FileError {
	text, _, _ := strings.Cut(err.Error(), "\n")
	f := policies.FileError{At: policies.Place{File: meshFile}, Err: errors.New(text)}
	m := begins.FindStringSubmatch(text)
	if m == nil || !fs.ValidPath(m[1]) {
		return f
	}
	if info, err := fs.Stat(fsys, m[1]); err == nil && !info.IsDir() {
		f.At.File, f.Err = m[1], errors.New(text[len(m[0]):])
	}
	return f
}
