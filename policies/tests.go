package policies

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/tester"
)

// TestOptions choose what Test runs.
type TestOptions struct {
	// Run is a regular expression: only tests whose full name,
	// data.<package>.<rule>, it matches are run. Empty runs all.
	Run string
}

// Report is the outcome of the tests of a mesh repository's policies.
type Report struct {
	Results []TestResult `json:"results"` // by file, line, name
}

// TestResult is the outcome of one test. Exactly one of Pass, Fail and Skip is
// set.
type TestResult struct {
	Package  string        `json:"package"` // data.envoy.authz_test
	Name     string        `json:"name"`    // test_admin_may_delete; with cases: test_admin/case
	File     string        `json:"file"`
	Line     int           `json:"line"`
	Pass     bool          `json:"pass"`
	Fail     bool          `json:"fail"`
	Skip     bool          `json:"skip,omitempty"` // todo_test_…
	Err      string        `json:"error,omitempty"`
	Duration time.Duration `json:"duration_ns"`
	Output   string        `json:"output,omitempty"` // of print()
}

// Failed is how many tests did not pass; a test that is put off counts
// neither as passed nor as failed.
func (r Report) Failed() int {
	n := 0
	for _, t := range r.Results {
		if t.Fail {
			n++
		}
	}
	return n
}

// Test runs the test_ rules of the *_test.rego files, against the program's
// own modules and data and with the built-ins that a request has. As on a
// request, a built-in that fails is an error, not undefined. It returns
// ErrNoTests when nothing ran.
func Test(ctx context.Context, files []File, opts TestOptions) (Report, error) {
	if _, err := regexp.Compile(opts.Run); err != nil {
		return Report{}, fmt.Errorf("which tests to run: %w", err)
	}
	src, err := parseFiles(files)
	if err != nil {
		return Report{}, err
	}
	// The program alone first: it must not need what a test file defines.
	program, err := src.compile(src.program, false)
	if err != nil {
		return Report{}, err
	}
	if err := src.checkTests(program); err != nil {
		return Report{}, err
	}
	return src.run(ctx, opts)
}

func (s *sources) run(ctx context.Context, opts TestOptions) (Report, error) {
	modules := copyModules(s.program)
	for name, m := range s.tests {
		modules[name] = m.Copy()
	}
	store := s.store()
	txn, err := store.NewTransaction(ctx, storage.TransactionParams{})
	if err != nil {
		return Report{}, err
	}
	defer store.Abort(ctx, txn)
	results, err := tester.NewRunner().
		SetCompiler(s.compiler(true)).
		SetStore(store).
		SetModules(modules).
		SetTimeout(MaxEval).
		RaiseBuiltinErrors(true).
		CapturePrintOutput(true).
		Filter(opts.Run).
		RunTests(ctx, txn)
	if err != nil {
		return Report{}, position(err)
	}
	var report Report
	for r := range results {
		if r.Location != nil && strings.HasSuffix(r.Location.File, testSuffix) {
			report.add(r)
		}
	}
	if err := ctx.Err(); err != nil {
		return Report{}, fmt.Errorf("the tests were not all run: %w", err)
	}
	if len(report.Results) == 0 {
		return Report{}, ErrNoTests
	}
	slices.SortFunc(report.Results, compareTests)
	return report, nil
}

func compareTests(a, b TestResult) int {
	if c := strings.Compare(a.File, b.File); c != 0 {
		return c
	}
	if a.Line != b.Line {
		return a.Line - b.Line
	}
	return strings.Compare(a.Name, b.Name)
}

// add adds a test, or each of its cases where it has any.
func (r *Report) add(t *tester.Result) {
	base := TestResult{
		Package:  t.Package,
		Name:     t.Name,
		File:     t.Location.File,
		Line:     t.Location.Row,
		Pass:     t.Pass(),
		Fail:     !t.Pass() && !t.Skip,
		Skip:     t.Skip,
		Duration: t.Duration,
		Output:   string(t.Output),
	}
	if t.Error != nil {
		base.Err = t.Error.Error()
	}
	cases := 0
	for name, sub := range t.SubResults.Iter {
		if len(sub.SubResults) > 0 {
			continue
		}
		one := base
		one.Name = t.Name + "/" + strings.Join(name, "/")
		one.Fail = sub.Fail || t.Error != nil
		one.Pass = !one.Fail
		r.Results = append(r.Results, one)
		cases++
	}
	if cases == 0 {
		r.Results = append(r.Results, base)
	}
}

// checkTests holds that no test file adds to a rule of the program: what is
// tested would then not be what decides.
func (s *sources) checkTests(program *ast.Compiler) error {
	var problems []error
	for _, m := range s.tests {
		for _, r := range m.Rules {
			ref := r.Ref().GroundPrefix()
			for _, p := range program.GetRules(ref) {
				problems = append(problems, fmt.Errorf("%s: %s also stands in the program, at %s; a test may not add to it: give the rule or the package another name", at(r.Loc()), ref, at(p.Loc())))
				break
			}
		}
	}
	return errors.Join(problems...)
}
