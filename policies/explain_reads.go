package policies

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// UnknownRead is an expression that reads a part of the input of which only is
// known that it was there. What the policy would have said is then unknown too.
type UnknownRead struct {
	Part string // input.attributes.request.http.body
	At   Place
}

// watch finds out whether an evaluation looked at parts of the input that are
// unknown. An evaluation that did not gives the same result whatever they are:
// all that it does follows from what it reads.
//
// It is told of each expression before that is evaluated. A variable that
// stands for a part of the input is followed, so that
//
//	http := input.attributes.request.http
//	http.method == "GET"
//
// reads the method and nothing else. Anything else that is done with a
// collection counts as reading all of it.
type watch struct {
	unknown []ast.Ref
	aliases map[ast.Var]ast.Ref // of the whole program: the compiler gives each its own name
	found   []UnknownRead
}

func newWatch(unknown [][]string) *watch {
	r := &watch{aliases: map[ast.Var]ast.Ref{}}
	for _, path := range unknown {
		r.unknown = append(r.unknown, inputPart(path))
	}
	return r
}

// expression is told of one; rule is that in whose body it stands, nil if it
// stands inside of another expression.
func (r *watch) expression(x *ast.Expr, rule *ast.Rule, e *topdown.Event) {
	if len(r.unknown) == 0 || rule != nil && r.alias(x, rule, e) {
		return
	}
	r.walk(x, e)
}

// head is told of a rule before its body is evaluated. What stands in its head
// is read when the body has held, and no event says so where it is undefined.
func (r *watch) head(h *ast.Head, e *topdown.Event) {
	if len(r.unknown) == 0 {
		return
	}
	for _, t := range h.Ref() {
		r.walk(t, e)
	}
	if h.Value != nil {
		r.walk(h.Value, e)
	}
}

// inHead reports whether a variable stands in the head of a rule, and so is
// handed on.
func inHead(v ast.Var, rule *ast.Rule) bool {
	found := false
	ast.WalkVars(rule.Head, func(other ast.Var) bool {
		found = found || other == v
		return found
	})
	for _, t := range rule.Head.Ref() {
		found = found || t.Value.Compare(v) == 0
	}
	return found
}

func (r *watch) walk(x any, e *topdown.Event) {
	ast.NewGenericVisitor(func(n any) bool {
		switch n := n.(type) {
		case ast.Ref:
			if part, ok := r.part(n, e); ok {
				r.touch(part, e)
				n = n[1:] // what stands inside of brackets is read too
			}
			for _, t := range n {
				if _, plain := t.Value.(ast.String); !plain {
					r.term(t, e)
				}
			}
			return true
		case ast.Var:
			r.term(ast.NewTerm(n), e)
		// The expressions inside of the following come by themselves.
		case *ast.ArrayComprehension:
			r.walk(n.Term, e)
			return true
		case *ast.SetComprehension:
			r.walk(n.Term, e)
			return true
		case *ast.ObjectComprehension:
			r.walk(n.Key, e)
			r.walk(n.Value, e)
			return true
		case *ast.Every:
			r.walk(n.Domain, e)
			return true
		}
		return false
	}).Walk(x)
}

// term is anything but a reference that is read.
func (r *watch) term(t *ast.Term, e *topdown.Event) {
	switch v := t.Value.(type) {
	case ast.Var:
		if v.Equal(ast.InputRootDocument.Value) {
			r.touch(ast.InputRootRef, e)
		} else if ref, ok := r.aliases[v]; ok {
			r.touch(ref, e)
		}
	case ast.Ref:
		if part, ok := r.part(v, e); ok {
			r.touch(part, e)
		}
	}
}

// alias takes an expression that does nothing but name a part of the input.
func (r *watch) alias(x *ast.Expr, rule *ast.Rule, e *topdown.Event) bool {
	if !x.IsEquality() || x.Negated || len(x.With) > 0 {
		return false
	}
	for _, pair := range [][2]*ast.Term{{x.Operand(0), x.Operand(1)}, {x.Operand(1), x.Operand(0)}} {
		v, named := pair[0].Value.(ast.Var)
		ref, is := pair[1].Value.(ast.Ref)
		if other, variable := pair[1].Value.(ast.Var); variable {
			ref, is = r.aliases[other]
		}
		if !named || !is || !v.IsGenerated() || isBound(v, e) || inHead(v, rule) {
			continue
		}
		part, ok := r.part(ref, e)
		if ok && len(part) == len(r.whole(ref)) {
			r.aliases[v] = part
			return !r.isUnknown(part)
		}
	}
	return false
}

// isUnknown: nothing of the part is known, not even what it has.
func (r *watch) isUnknown(part ast.Ref) bool {
	return slices.ContainsFunc(r.unknown, part.HasPrefix)
}

func isBound(v ast.Var, e *topdown.Event) bool {
	t := e.Plug(ast.NewTerm(v))
	if t == nil {
		return false
	}
	_, still := t.Value.(ast.Var)
	return !still
}

// whole is a reference with the part that its variable stands for in its place.
func (r *watch) whole(ref ast.Ref) ast.Ref {
	head, _ := ref[0].Value.(ast.Var)
	if alias, ok := r.aliases[head]; ok {
		return append(slices.Clone(alias), ref[1:]...)
	}
	return ref
}

// part is what of the input a reference reads, cut at the first bracket whose
// content is not known yet; false if it is none to the input.
func (r *watch) part(ref ast.Ref, e *topdown.Event) (ast.Ref, bool) {
	out := ast.Ref{}
	for i, t := range r.whole(ref) {
		if i == 0 {
			if !t.Equal(ast.InputRootDocument) {
				return nil, false
			}
		} else if t = e.Plug(t); t == nil || !t.IsGround() || !ast.IsConstant(t.Value) {
			break
		}
		out = append(out, t)
	}
	return out, true
}

func (r *watch) touch(part ast.Ref, e *topdown.Event) {
	for _, u := range r.unknown {
		if !part.HasPrefix(u) && !u.HasPrefix(part) {
			continue
		}
		read := UnknownRead{Part: u.String(), At: placeOf(e.Location)}
		if !slices.Contains(r.found, read) {
			r.found = append(r.found, read)
		}
	}
}

// Part names a part of the input as Reads and UnknownRead do; path is below
// input.
func Part(path []string) string { return inputPart(path).String() }

func inputPart(path []string) ast.Ref {
	ref := ast.Ref{ast.InputRootDocument}
	for _, name := range path {
		ref = append(ref, ast.StringTerm(name))
	}
	return ref
}
