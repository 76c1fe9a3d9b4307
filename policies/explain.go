package policies

import (
	"context"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// Bounds of what an Explanation shows, so that it can be read.
const (
	maxShown  = 200 // bytes of a value or of an expression
	maxValues = 3   // values of a rule that has many, and of an expression that was tried often
)

// Explanation is how a program came to what it says of one input document.
type Explanation struct {
	Entrypoint string // data.envoy.authz.allow
	Result     Result // as Eval gives it
	// Rules are those that were evaluated, in the order in which they were begun.
	// What was already decided is not: of several bodies of one rule those after
	// the first that holds, and what stands in a body after an expression that
	// failed.
	Rules []RuleOutcome
	// Unknown are the expressions by which the result depends on what is not
	// known; where there is one, Result and Rules may not be what they were.
	Unknown []UnknownRead
}

// RuleOutcome is what came of one body of a rule. A rule with several bodies, a
// default and an else has one for each.
type RuleOutcome struct {
	Rule string // data.envoy.authz.allow
	At   Place
	// Tried counts how often the body was evaluated, Held how often it was true:
	// once, but for functions, and rules that make sets and objects.
	Tried, Held int
	Default     bool
	Values      []string // that it gave, as Rego writes them; at most three
	// Failed are the expressions that ended a body. They are empty where it held
	// each time.
	Failed []FailedExpression
}

// FailedExpression is an expression that was false or undefined.
type FailedExpression struct {
	At    Place
	Text  string // the source
	Times int
	// Seen are the values that it saw when it failed first: parts of the input,
	// variables, and calls inside it.
	Seen []SeenValue
}

// SeenValue is one of them. Value is as Rego writes it; "undefined" where the
// input has no such part.
type SeenValue struct{ Name, Value string }

// Explain is Eval, and tells how the result came about. It looks at each rule,
// where Eval leaves out those of which it knows that they cannot hold; it is
// slower for that, and bounded as Eval is. The error is that of Eval, and the
// Explanation says how far the policy came until then.
//
// unknown are paths below input, such as attributes, source, certificate: what
// stands there is not the value that was there.
func (p *Program) Explain(ctx context.Context, input any, unknown [][]string, opts ...EvalOption) (Explanation, error) {
	if p == nil {
		_, err := p.Eval(ctx, input, opts...)
		return Explanation{}, err
	}
	t := &tracer{watch: newWatch(unknown), rules: map[*ast.Rule]*RuleOutcome{}, queries: map[uint64]*ast.Rule{}}
	opts = append(opts, func(o *evalOptions) { o.tracer = t })
	result, err := p.Eval(ctx, input, opts...)
	return Explanation{Entrypoint: p.Entrypoint(), Result: result, Rules: t.outcomes(), Unknown: t.watch.found}, err
}

// tracer gathers what OPA tells while it evaluates.
type tracer struct {
	watch   *watch
	order   []*ast.Rule
	rules   map[*ast.Rule]*RuleOutcome
	queries map[uint64]*ast.Rule // the rule whose body a query is
	failed  map[*ast.Expr]int    // index in the rule's Failed
}

// Enabled is always true.
func (t *tracer) Enabled() bool { return true }

// Config asks for the names of variables.
func (t *tracer) Config() topdown.TraceConfig { return topdown.TraceConfig{PlugLocalVars: true} }

// TraceEvent is told of each step.
func (t *tracer) TraceEvent(e topdown.Event) {
	switch n := e.Node.(type) {
	case *ast.Rule:
		switch e.Op {
		case topdown.EnterOp:
			t.queries[e.QueryID] = n
			t.outcome(n).Tried++
			t.watch.head(n.Head, &e)
		case topdown.ExitOp:
			t.held(n, &e)
		}
	case *ast.Expr:
		if e.Op == topdown.EvalOp {
			t.watch.expression(n, t.queries[e.QueryID], &e)
		}
		// Only the body itself: what fails inside of `not` or of a comprehension
		// does not end it.
		if rule := t.queries[e.QueryID]; rule != nil && e.Op == topdown.FailOp {
			t.fail(rule, n, &e)
		}
	}
}

func (t *tracer) outcome(r *ast.Rule) *RuleOutcome {
	o := t.rules[r]
	if o == nil {
		o = &RuleOutcome{Rule: r.Ref().String(), At: placeOf(r.Loc()), Default: r.Default}
		if r.Module != nil {
			o.Rule = r.Module.Package.Path.Extend(r.Head.Ref()).String()
		}
		t.rules[r], t.order = o, append(t.order, r)
	}
	return o
}

func (t *tracer) held(r *ast.Rule, e *topdown.Event) {
	o := t.outcome(r)
	o.Held++
	value := r.Head.Value
	if r.Head.Key != nil && value == nil {
		value = r.Head.Key
	}
	if value == nil || len(o.Values) == maxValues {
		return
	}
	text := shown(e.Plug(value).String())
	for _, known := range o.Values {
		if known == text {
			return
		}
	}
	o.Values = append(o.Values, text)
}

func (t *tracer) fail(r *ast.Rule, x *ast.Expr, e *topdown.Event) {
	o := t.outcome(r)
	if i, ok := t.failed[x]; ok {
		o.Failed[i].Times++
		return
	}
	if t.failed == nil {
		t.failed = map[*ast.Expr]int{}
	}
	t.failed[x] = len(o.Failed)
	o.Failed = append(o.Failed, FailedExpression{At: placeOf(e.Location), Text: source(x), Times: 1, Seen: seen(r, x, e)})
}

// outcomes drops what failed on the way of a body that held in the end: of
// `some x in input.list; x == 1` each other x.
func (t *tracer) outcomes() []RuleOutcome {
	out := make([]RuleOutcome, 0, len(t.order))
	for _, r := range t.order {
		o := *t.rules[r]
		if o.Held >= o.Tried {
			o.Failed = nil
		}
		out = append(out, o)
	}
	return out
}

// source is an expression as its file has it.
func source(x *ast.Expr) string {
	if l := x.Loc(); l != nil && len(l.Text) > 0 {
		text := strings.Join(strings.Fields(string(l.Text)), " ")
		return shown(strings.TrimPrefix(text, "else if "))
	}
	return shown(x.String())
}

// shown cuts a text to what can be read.
func shown(text string) string {
	if len(text) <= maxShown {
		return text
	}
	return strings.ToValidUTF8(text[:maxShown], "") + "…"
}
