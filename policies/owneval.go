package policies

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// Bounds of one evaluation of a repository's own guardrails, which is of one
// package over one proxy.
const (
	// maxSteps is in events of OPA's tracer. Unlike a time it is the same on
	// every machine: what one machine builds, all do.
	maxSteps = 5_000_000
	// maxOwn ends what a step count cannot; no honest rule comes near it.
	maxOwn = 2 * time.Minute
	// maxOwnFindings of one package in one proxy.
	maxOwnFindings = 10_000
)

// steps counts what an evaluation does, and ends it.
type steps struct {
	done int
	end  func()
}

func (s *steps) Enabled() bool               { return true }
func (s *steps) Config() topdown.TraceConfig { return topdown.TraceConfig{} }
func (s *steps) TraceEvent(topdown.Event) {
	if s.done++; s.done == maxSteps+1 {
		s.end()
	}
}

// evalOwn evaluates a query of the repository's own rules within the bounds.
func evalOwn(ctx context.Context, query rego.PreparedEvalQuery, input ast.Value) (set rego.ResultSet, err error) {
	defer func() {
		if r := recover(); r != nil {
			set, err = nil, fmt.Errorf("panic: %v", r)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, maxOwn)
	defer cancel()
	count := &steps{end: cancel}
	options := []rego.EvalOption{rego.EvalRuleIndexing(false), rego.EvalEarlyExit(false), rego.EvalQueryTracer(count)}
	if input != nil {
		options = append(options, rego.EvalParsedInput(input))
	}
	set, err = query.Eval(ctx, options...)
	if count.done > maxSteps { // also where the end came a moment too late
		return nil, fmt.Errorf("more than %d steps for one proxy", maxSteps)
	}
	return set, err
}

// placed says where in the repository an evaluation failed.
func placed(err error, at Place, name string) error {
	var failed *topdown.Error
	detail := ""
	if errors.As(err, &failed) {
		if failed.Location != nil && failed.Location.File != "" {
			at = placeOf(failed.Location)
		}
		message, rest, more := strings.Cut(failed.Message, "\n")
		if err = errors.New(message); more {
			detail = "\n" + rest
		}
	}
	return &FileError{At: at, Err: fmt.Errorf("%s: %w", name, err), Detail: detail}
}

// judgeOwn asks the repository's own rules about one proxy.
func (g *Guardrails) judgeOwn(ctx context.Context, proxy GuardProxy, input ast.Value) ([]Finding, error) {
	if len(g.packages) == 0 {
		return nil, nil
	}
	known := map[[2]string]bool{}
	for _, r := range proxy.Resources {
		known[[2]string{r.Type, r.Name}] = true
	}
	var all []Finding
	for _, p := range g.packages {
		name := p.name + ".findings"
		set, err := evalOwn(ctx, p.findings, input)
		if err != nil {
			return nil, placed(err, p.at, name)
		}
		if len(set) != 1 || len(set[0].Expressions) != 1 {
			return nil, placed(errors.New("it is undefined"), p.at, name)
		}
		list, ok := set[0].Expressions[0].Value.([]any)
		if !ok || len(list) > maxOwnFindings {
			return nil, placed(fmt.Errorf("want a set of at most %d findings", maxOwnFindings), p.at, name)
		}
		for _, v := range list {
			f, err := g.ownFinding(v)
			if err == nil && !known[[2]string{f.Type, f.Resource}] {
				err = fmt.Errorf("the proxy has no %s %q", clip(f.Type), clip(f.Resource))
			}
			if err != nil {
				return nil, placed(err, p.at, name)
			}
			all = append(all, f)
		}
	}
	return all, nil
}

// ownFinding reads {code, node, path, text}: the finding stands at the end of
// path, which begins at the node and may be left out.
func (g *Guardrails) ownFinding(v any) (Finding, error) {
	m, ok := v.(map[string]any)
	if !ok {
		return Finding{}, fmt.Errorf("a finding is %s; want an object with code, node, path and text", kind(v))
	}
	code, _ := m["code"].(string)
	rule, ok := g.own[code]
	if !ok {
		return Finding{}, fmt.Errorf("a finding's code %q is not declared in rules", clip(fmt.Sprint(m["code"])))
	}
	f := Finding{Code: code, Mend: rule.Mend}
	if f.Text, ok = m["text"].(string); !ok || f.Text == "" || len(f.Text) > maxText || slices.ContainsFunc([]rune(f.Text), isControl) {
		return f, fmt.Errorf("%s: a finding's text: want a text on one line, of at most %d bytes", code, maxText)
	}
	node, _ := m["node"].(map[string]any)
	resource, _ := node["resource"].(map[string]any)
	from, ok := findingPath(node["path"])
	f.Type, _ = resource["type"].(string)
	f.Resource, _ = resource["name"].(string)
	if !ok || f.Type == "" {
		return f, fmt.Errorf("%s: a finding's node: want a node of the input, with resource and path", code)
	}
	if said, has := m["path"]; has {
		rest, ok := findingPath(said)
		if !ok {
			return f, fmt.Errorf("%s: a finding's path: want an array of names and whole numbers", code)
		}
		from = append(from, rest...)
	}
	f.Path, f.Field = from, fieldPath(from)
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if !slices.Contains([]string{"code", "node", "path", "text"}, key) {
			return f, fmt.Errorf("%s: a finding has no field %q; it has code, node, path and text", code, clip(key))
		}
	}
	return f, nil
}

func isControl(r rune) bool { return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' }
