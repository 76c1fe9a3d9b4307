package policies

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/tester"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// testRule is a rule of a test file that is a test.
type testRule struct {
	rule *ast.Rule
	name ast.Ref // in its package, up to the part that begins with test_
	ref  ast.Ref // data.<package>.<name>
	skip bool
}

// findTests lists the rules of the test files that have a part of their name
// begin with test_, or todo_test_ for those that are put off.
func findTests(c *ast.Compiler) []testRule {
	var out []testRule
	for _, path := range slices.Sorted(maps.Keys(c.Modules)) {
		if !strings.HasSuffix(path, testSuffix) {
			continue
		}
		for _, r := range c.Modules[path].Rules {
			if t, ok := asTest(r); ok {
				out = append(out, t)
			}
		}
	}
	return out
}

func asTest(r *ast.Rule) (testRule, bool) {
	head := r.Head.Ref().GroundPrefix()
	for i, part := range head {
		var name string
		switch v := part.Value.(type) {
		case ast.Var:
			name = string(v)
		case ast.String:
			name = string(v)
		}
		skip := strings.HasPrefix(name, tester.SkipTestPrefix)
		if skip || strings.HasPrefix(name, tester.TestPrefix) {
			name := head[:i+1]
			return testRule{rule: r, name: name, ref: r.Module.Package.Path.Extend(name), skip: skip}, true
		}
	}
	return testRule{}, false
}

// run is the outcome of the test, or of each of its cases where it has any. It
// adds to seen, which may be nil, what the test reached.
func (t testRule) run(ctx context.Context, c *ast.Compiler, store storage.Store, seen *cover.Cover) []TestResult {
	base := TestResult{
		Package: t.rule.Module.Package.Path.String(),
		Name:    t.name.String(),
		File:    t.rule.Loc().File,
		Line:    t.rule.Loc().Row,
	}
	if t.skip {
		base.Skip = true
		return []TestResult{base}
	}
	ctx, cancel := context.WithTimeout(ctx, MaxEval)
	defer cancel()
	var output bytes.Buffer
	cases := tester.NewTestQueryTracer()
	start := time.Now()
	value, err := t.eval(ctx, c, store, &output, cases, seen)
	base.Duration = time.Since(start)
	base.Output = output.String()
	if err != nil {
		base.Err = err.Error()
	}
	if _, ok := value.(map[string]any); ok || t.rule.Head.DocKind() == ast.PartialObjectDoc {
		return t.cases(base, value, cases.Events())
	}
	base.Pass = err == nil && value == true
	base.Fail = !base.Pass
	return []TestResult{base}
}

func (t testRule) eval(ctx context.Context, c *ast.Compiler, store storage.Store, output *bytes.Buffer, cases *tester.TestQueryTracer, seen *cover.Cover) (any, error) {
	query, err := rego.New(
		rego.Compiler(c),
		rego.Store(store),
		rego.ParsedQuery(ast.NewBody(ast.NewExpr(ast.NewTerm(t.ref)))),
		rego.StrictBuiltinErrors(true),
		rego.PrintHook(topdown.NewPrintHook(output)),
	).PrepareForEval(ctx)
	if err != nil {
		return nil, err
	}
	options := []rego.EvalOption{rego.EvalMetrics(metrics.NoOp()), rego.EvalRuleIndexing(false), rego.EvalEarlyExit(onlyConstants(c)), rego.EvalQueryTracer(cases)}
	if seen != nil {
		options = append(options, rego.EvalQueryTracer(seen))
	}
	set, err := query.Eval(ctx, options...)
	if err != nil || len(set) == 0 {
		return nil, err
	}
	return set[0].Expressions[0].Value, nil
}

// cases tells of every case that was begun, whether it has a value or not: a
// case that fails is one that is missing from the value.
func (t testRule) cases(base TestResult, value any, events []*topdown.Event) []TestResult {
	passed := map[string]bool{}
	for _, e := range events {
		if expr, ok := e.Node.(*ast.Expr); ok && e.Op == topdown.TestCaseOp {
			if names, ok := expr.Operand(0).Value.(*ast.Array); ok {
				passed[caseName(names)] = false
			}
		}
	}
	collectCases(passed, "", value)
	if len(passed) == 0 {
		base.Fail = true
		if base.Err == "" {
			base.Err = "the test has no case"
		}
		return []TestResult{base}
	}
	var out []TestResult
	for _, name := range slices.Sorted(maps.Keys(passed)) {
		one := base
		one.Name += name
		one.Pass = passed[name] && base.Err == ""
		one.Fail = !one.Pass
		out = append(out, one)
	}
	return out
}

func caseName(names *ast.Array) string {
	var b strings.Builder
	names.Foreach(func(n *ast.Term) {
		if s, ok := n.Value.(ast.String); ok {
			fmt.Fprintf(&b, "/%s", string(s))
		} else {
			fmt.Fprintf(&b, "/%s", n.Value)
		}
	})
	return b.String()
}

// collectCases adds the cases of a test's value: objects in objects, true for
// what passed.
func collectCases(passed map[string]bool, name string, value any) {
	if m, ok := value.(map[string]any); ok {
		for key, v := range m {
			collectCases(passed, name+"/"+key, v)
		}
		return
	}
	if name != "" {
		passed[name] = value == true
	}
}
