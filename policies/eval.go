package policies

import (
	"context"
	"fmt"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/cache"
)

// MaxEval is how long one evaluation may take when its context has no earlier
// deadline.
const MaxEval = time.Second

// Program is a compiled request policy. It is immutable and serves any number
// of evaluations at a time.
type Program struct {
	entry ast.Ref
	query rego.PreparedEvalQuery
	code  *code
	reads *reads
}

// code is what the programs of one set of files share.
type code struct {
	compiler *ast.Compiler
	store    storage.Store
	// data is a reading of the store that is never ended: nothing is written.
	data   storage.Transaction
	values cache.InterQueryValueCache
	// indexed: rules that cannot hold are left out. OPA also leaves out one that
	// calls startswith, endswith, glob.match or strings.any_*_match with a value
	// that is no string, where the call itself is an error: under not, that
	// allowed. So nothing is left out if anything can be an error, and what is
	// left out changes no decision.
	indexed bool
	// early: of a rule's bodies those after the first that holds are left out where
	// they say the same. Without its index OPA 1.22.2 takes two values of o.x to be
	// the same if none of them is a constant, and finds no contradiction.
	early bool
	grpc  *descriptors // nil if the files have no descriptor set
}

func (p *Program) messages() *descriptors {
	if p == nil {
		return nil
	}
	return p.code.grpc
}

// Entrypoint is the rule that decides, as Rego names it:
// data.envoy.authz.allow.
func (p *Program) Entrypoint() string { return p.entry.String() }

// EvalOption changes one evaluation.
type EvalOption func(*evalOptions)

type evalOptions struct {
	now    time.Time
	tracer topdown.QueryTracer // of Explain: it is told of every rule
}

// At makes now the time that time.now_ns gives and that io.jwt.decode_verify
// judges a token by. Without it that is the machine's clock.
func At(now time.Time) EvalOption { return func(o *evalOptions) { o.now = now } }

// Eval asks the policy about one input document, as Input makes it. An error
// wraps one of ErrUndefined, ErrResultType, ErrEval, ErrTimeout and ErrInput;
// the Result that comes with it denies. It returns soon after ctx ends, and
// never evaluates for longer than MaxEval.
func (p *Program) Eval(ctx context.Context, input any, opts ...EvalOption) (result Result, err error) {
	defer func() {
		if r := recover(); r != nil {
			result, err = Result{}, fmt.Errorf("%w: panic: %v", ErrEval, r)
		}
	}()
	if p == nil {
		return Result{}, fmt.Errorf("%w: there is no policy", ErrEval)
	}
	ctx, cancel := context.WithTimeout(ctx, MaxEval)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return Result{}, fmt.Errorf("%w: %w", ErrTimeout, err)
	}
	value, err := inputValue(input)
	if err != nil {
		return Result{}, err
	}
	stopped := topdown.NewCancel()
	defer context.AfterFunc(ctx, stopped.Cancel)()
	set, err := p.query.Eval(ctx, p.options(value, stopped, opts)...)
	switch {
	case ctx.Err() != nil:
		return Result{}, fmt.Errorf("%w: %w", ErrTimeout, ctx.Err())
	case topdown.IsCancel(err):
		return Result{}, fmt.Errorf("%w: %w", ErrTimeout, err)
	case err != nil:
		return Result{}, fmt.Errorf("%w: %w", ErrEval, err)
	case len(set) == 0:
		return Result{}, fmt.Errorf("%w: %s", ErrUndefined, p.Entrypoint())
	case len(set) != 1 || len(set[0].Expressions) != 1:
		return Result{}, fmt.Errorf("%w: %s has more than one value", ErrResultType, p.Entrypoint())
	}
	return parseResult(set[0].Expressions[0].Value)
}

// onlyConstants reports whether no name below a rule, such as o.x, has several
// bodies of which one gives what is no constant.
func onlyConstants(compiler *ast.Compiler) bool {
	bodies, varies := map[string]int{}, map[string]bool{}
	for _, m := range compiler.Modules {
		ast.WalkRules(m, func(r *ast.Rule) bool {
			if ref := r.Ref(); len(r.Head.Ref()) > 1 && r.Head.RuleKind() == ast.SingleValue {
				name := ref[:len(m.Package.Path)+1].String()
				bodies[name]++
				varies[name] = varies[name] || r.Head.Value != nil && !ast.IsConstant(r.Head.Value.Value)
			}
			return false
		})
	}
	for name, n := range bodies {
		if n > 1 && varies[name] {
			return false
		}
	}
	return true
}

func (p *Program) options(input ast.Value, stopped topdown.Cancel, opts []EvalOption) []rego.EvalOption {
	var o evalOptions
	for _, f := range opts {
		f(&o)
	}
	out := []rego.EvalOption{
		rego.EvalParsedInput(input),
		rego.EvalTransaction(p.code.data),
		rego.EvalExternalCancel(stopped),
		rego.EvalMetrics(metrics.NoOp()),
		rego.EvalInstrument(false),
		rego.EvalRuleIndexing(p.code.indexed),
		rego.EvalEarlyExit(p.code.indexed || p.code.early),
		rego.EvalInterQueryBuiltinValueCache(p.code.values),
	}
	if !o.now.IsZero() {
		out = append(out, rego.EvalTime(o.now))
	}
	if o.tracer != nil {
		out = append(out, rego.EvalQueryTracer(o.tracer), rego.EvalRuleIndexing(false), rego.EvalEarlyExit(p.code.early))
	}
	return out
}

// inputValue makes OPA's form of an input document.
func inputValue(input any) (ast.Value, error) {
	if input == nil {
		return nil, fmt.Errorf("%w: no input", ErrInput)
	}
	if v, ok := input.(ast.Value); ok {
		return v, nil
	}
	v, err := ast.InterfaceToValue(input)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInput, err)
	}
	return v, nil
}
