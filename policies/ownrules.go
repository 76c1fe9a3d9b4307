package policies

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
)

// Guardrails are the rules that judge one mesh: the built-in ones, and those
// that its repository adds. The zero Guardrails are the built-in ones alone.
type Guardrails struct {
	own      map[string]Rule // of the repository, by code
	packages []ownPackage    // by name
}

// ownPackage is one package of rules of the repository, ready to be asked.
type ownPackage struct {
	name     string // guardrails.<name>
	at       Place  // of its findings
	findings rego.PreparedEvalQuery
}

// ownCode is the form of the codes of a repository's own rules. The prefix keeps
// them apart from those of this release and of every later one.
var ownCode = regexp.MustCompile(`^USER_[A-Z0-9]+(_[A-Z0-9]+)*$`)

const (
	maxCode = 64   // bytes of a code
	maxText = 1000 // bytes of a title, text or mend
)

// NewGuardrails adds the rules of a mesh repository's guardrails/*.rego to the
// built-in ones. docs/guardrails.md describes their form. They are compiled by
// themselves, so that they can neither read nor change a built-in rule. An
// error names file and line.
func NewGuardrails(files []File) (*Guardrails, error) {
	src, err := parseFiles(files, guardCapabilities())
	if err != nil {
		return nil, err
	}
	compiler, err := src.compile(src.program, false)
	if err != nil {
		return nil, err
	}
	g := &Guardrails{own: map[string]Rule{}}
	var problems []error
	for _, m := range packagesOf(compiler) {
		p, err := g.add(compiler, m)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		g.packages = append(g.packages, p)
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	return g, nil
}

// TestGuardrails runs the test_ rules of the guardrails/*_test.rego files, as
// Test runs those of policies.
func TestGuardrails(ctx context.Context, files []File, opts TestOptions) (Report, error) {
	return test(ctx, files, guardCapabilities(), opts)
}

// Rules are all rules, by code.
func (g *Guardrails) Rules() []Rule {
	all := append(GuardrailTable(), slices.Collect(maps.Values(g.own))...)
	slices.SortFunc(all, func(a, b Rule) int { return strings.Compare(a.Code, b.Code) })
	return all
}

// Rule is the rule with that code.
func (g *Guardrails) Rule(code string) (Rule, bool) {
	if r, ok := g.own[code]; ok {
		return r, true
	}
	return RuleOf(code)
}

// packagesOf has one module of each package, by the package's name.
func packagesOf(c *ast.Compiler) []*ast.Module {
	first := map[string]*ast.Module{}
	for _, path := range slices.Sorted(maps.Keys(c.Modules)) {
		m := c.Modules[path]
		if name := m.Package.Path.String(); first[name] == nil {
			first[name] = m
		}
	}
	out := make([]*ast.Module, 0, len(first))
	for _, name := range slices.Sorted(maps.Keys(first)) {
		out = append(out, first[name])
	}
	return out
}

// add takes the rules of the package of m.
func (g *Guardrails) add(c *ast.Compiler, m *ast.Module) (ownPackage, error) {
	ref := m.Package.Path
	p := ownPackage{name: strings.TrimPrefix(ref.String(), "data.")}
	at := placeOf(m.Package.Location)
	if len(ref) != 3 || !ref[1].Equal(ast.StringTerm("guardrails")) {
		return p, &FileError{At: at, Err: fmt.Errorf("the package %s: a guardrail's package is guardrails.<name>", p.name)}
	}
	declared, err := g.declared(c, ref, p.name, at)
	if err != nil {
		return p, err
	}
	if p.at, err = setAt(c, ref, p.name, at); err != nil {
		return p, err
	}
	for code, rule := range declared {
		if other, ok := g.own[code]; ok {
			return p, &FileError{At: rule.At, Err: fmt.Errorf("the code %s is declared a second time; the other one stands at %s", code, other.At)}
		}
		g.own[code] = rule
	}
	p.findings, err = prepareOwn(c, ref.Append(ast.StringTerm("findings")))
	return p, err
}

// setAt is where the findings of a package begin. Each rule of that name has to
// add to one set.
func setAt(c *ast.Compiler, pkg ast.Ref, name string, at Place) (Place, error) {
	rules := c.GetRulesWithPrefix(pkg.Append(ast.StringTerm("findings")))
	if len(rules) == 0 {
		return at, &FileError{At: at, Err: fmt.Errorf("%s has no rule `findings contains …`", name)}
	}
	for _, r := range rules {
		if r.Head.RuleKind() != ast.MultiValue || len(r.Head.Ref()) != 1 {
			return at, &FileError{At: placeOf(r.Loc()), Err: fmt.Errorf("%s.findings is a set: write `findings contains …`", name)}
		}
	}
	return placeOf(rules[0].Loc()), nil
}

func prepareOwn(c *ast.Compiler, ref ast.Ref) (rego.PreparedEvalQuery, error) {
	return rego.New(
		rego.Compiler(c),
		rego.ParsedQuery(ast.NewBody(ast.NewExpr(ast.NewTerm(ref)))),
		rego.StrictBuiltinErrors(true),
	).PrepareForEval(context.Background())
}

// declared reads the rules that a package declares in its object `rules`.
func (g *Guardrails) declared(c *ast.Compiler, pkg ast.Ref, name string, at Place) (map[string]Rule, error) {
	ref := pkg.Append(ast.StringTerm("rules"))
	if rules := c.GetRulesWithPrefix(ref); len(rules) > 0 {
		at = placeOf(rules[0].Loc())
	}
	fail := func(format string, args ...any) (map[string]Rule, error) {
		return nil, &FileError{At: at, Err: fmt.Errorf(name+".rules: "+format, args...)}
	}
	query, err := prepareOwn(c, ref)
	if err != nil {
		return fail("%w", err)
	}
	set, err := evalOwn(context.Background(), query, nil)
	if err != nil {
		return nil, placed(err, at, name+".rules")
	}
	if len(set) == 0 {
		return fail("it is undefined; write an object of code to title, text and mend, which does not depend on the input")
	}
	object, ok := set[0].Expressions[0].Value.(map[string]any)
	if !ok || len(object) == 0 {
		return fail("want an object of code to title, text and mend, with one rule at least")
	}
	out := map[string]Rule{}
	for _, code := range slices.Sorted(maps.Keys(object)) {
		rule, err := declaration(code, object[code])
		if err != nil {
			return fail("%w", err)
		}
		rule.At = at
		out[code] = rule
	}
	return out, nil
}

// declaration reads one declared rule.
func declaration(code string, v any) (Rule, error) {
	r := Rule{Code: code, Own: true}
	if !ownCode.MatchString(code) || len(code) > maxCode {
		return r, fmt.Errorf("the code %q: want USER_ and then upper-case words joined by underscores, at most %d characters", clip(code), maxCode)
	}
	m, ok := v.(map[string]any)
	if !ok {
		return r, fmt.Errorf("%s is %s; want an object", code, kind(v))
	}
	for key, into := range map[string]*string{"title": &r.Title, "text": &r.Text, "mend": &r.Mend} {
		s, ok := m[key].(string)
		if !ok || strings.TrimSpace(s) == "" || len(s) > maxText || strings.ContainsFunc(s, isControl) {
			return r, fmt.Errorf("%s: %s: want a text on one line, of at most %d bytes", code, key, maxText)
		}
		*into = s
		delete(m, key)
	}
	if v, said := m["waivable"]; said {
		if r.Waivable, ok = v.(bool); !ok {
			return r, fmt.Errorf("%s: waivable: want true or false", code)
		}
		delete(m, "waivable")
	}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		return r, fmt.Errorf("%s has no field %q; it has title, text, mend and waivable", code, clip(key))
	}
	return r, nil
}
