package policies

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/open-policy-agent/opa/v1/tester"
)

// TestOptions choose what Test runs.
type TestOptions struct {
	// Run is a regular expression: only tests whose full name,
	// data.<package>.<rule>, it matches are run. Empty runs all.
	Run string
	// Coverage: tell which lines of the program the tests reached.
	Coverage bool
}

// Report is the outcome of the tests of a mesh repository's policies.
type Report struct {
	Results []TestResult `json:"results"` // by file, line, name
	// Coverage is nil where it was not asked for.
	Coverage *Coverage `json:"coverage,omitempty"`
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
// ErrNoTests when nothing ran; the Report's coverage stands even then.
func Test(ctx context.Context, files []File, opts TestOptions) (Report, error) {
	return test(ctx, files, capabilities(), opts)
}

func test(ctx context.Context, files []File, caps *ast.Capabilities, opts TestOptions) (Report, error) {
	if _, err := regexp.Compile(opts.Run); err != nil {
		return Report{}, fmt.Errorf("which tests to run: %w", err)
	}
	src, err := parseFiles(files, caps)
	if err != nil {
		return Report{}, err
	}
	// The program alone first: it must not need what a test file defines.
	if _, err := src.compile(src.program, false); err != nil {
		return Report{}, err
	}
	if err := src.checkTests(); err != nil {
		return Report{}, err
	}
	return src.run(ctx, opts)
}

func (s *sources) run(ctx context.Context, opts TestOptions) (Report, error) {
	modules := copyModules(s.program)
	for name, m := range s.tests {
		modules[name] = m.Copy()
	}
	compiler := s.compiler(true)
	// The runner compiles so that a test with cases tells of each; the
	// evaluation is ours, as strict as that of a request.
	none, err := tester.NewRunner().SetCompiler(compiler).SetModules(modules).Filter(`^\b$`).RunTests(ctx, nil)
	if err != nil {
		return Report{}, position(err)
	}
	for range none {
		continue
	}
	var report Report
	store, only := s.store(), regexp.MustCompile(opts.Run)
	var seen *cover.Cover
	if opts.Coverage {
		seen = cover.New()
	}
	for _, t := range findTests(compiler) {
		if !only.MatchString(t.ref.String()) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return Report{}, fmt.Errorf("the tests were not all run: %w", err)
		}
		report.Results = append(report.Results, t.run(ctx, compiler, store, seen)...)
	}
	if seen != nil {
		report.Coverage = coverage(seen, s.program)
	}
	if len(report.Results) == 0 {
		return report, ErrNoTests
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

// checkTests holds that no test file adds to a rule of the program, nor to a
// part of one: what is tested would then not be what decides.
func (s *sources) checkTests() error {
	var problems []error
	for _, path := range slices.Sorted(maps.Keys(s.tests)) {
		for _, r := range s.tests[path].Rules {
			if p := s.programRule(r.Ref()); p != nil {
				problems = append(problems, fmt.Errorf("%s: %s adds to what the program defines at %s; give the rule or its package another name",
					at(r.Loc()), r.Ref().GroundPrefix(), at(p.Loc())))
			}
		}
	}
	return errors.Join(problems...)
}

// programRule is a rule of the program that has the name, in its package, that
// ref begins with.
func (s *sources) programRule(ref ast.Ref) *ast.Rule {
	for _, path := range slices.Sorted(maps.Keys(s.program)) {
		for _, r := range s.program[path].Rules {
			whole := r.Ref()
			if ref.HasPrefix(whole[:len(whole)-len(r.Head.Ref())+1]) {
				return r
			}
		}
	}
	return nil
}
