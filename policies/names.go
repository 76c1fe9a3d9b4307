package policies

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// overlap reports whether one of the two is the other, or is in it.
func overlap(a, b ast.Ref) bool {
	n := min(len(a), len(b))
	return slices.EqualFunc(a[:n], b[:n], func(x, y *ast.Term) bool { return x.Equal(y) })
}

// otherName is what the rule is another name of; nil if it is more than that.
func (w *walk) otherName(r *ast.Rule) ast.Ref {
	if r.Default || r.Else != nil || len(r.Head.Args) > 0 || r.Head.Key != nil || r.Head.DocKind() != ast.CompleteDoc || !r.Head.Ref().IsGround() || len(r.Body) != 1 {
		return nil
	}
	v, ok := r.Head.Value.Value.(ast.Var)
	if !ok {
		return nil
	}
	name, ref := naming(r.Body[0])
	if name != v || !isConstant(ref) || !isInput(ref) {
		return nil
	}
	return ref
}

func isInput(ref ast.Ref) bool { return len(ref) > 0 && ref[0].Equal(ast.InputRootDocument) }

// isConstant reports whether all of a ref but its head are strings.
func isConstant(ref ast.Ref) bool {
	return len(ref) > 0 && !slices.ContainsFunc(ref[1:], func(t *ast.Term) bool { _, ok := t.Value.(ast.String); return !ok })
}

// naming is the variable and the ref of `v := a.b.c`; "" for anything else.
func naming(e *ast.Expr) (ast.Var, ast.Ref) {
	if !e.IsEquality() || e.Negated || len(e.With) > 0 || len(e.Operands()) != 2 {
		return "", nil
	}
	left, right := e.Operand(0).Value, e.Operand(1).Value
	if _, ok := left.(ast.Ref); ok {
		left, right = right, left
	}
	v, isVar := left.(ast.Var)
	ref, isRef := right.(ast.Ref)
	if !isVar || !isRef {
		return "", nil
	}
	return v, ref
}

// otherNames are the variables of a rule that stand for a part of the input:
// given that by one equation, and otherwise only asked for something in them.
// So nothing is compared with the part as a whole.
func otherNames(r *ast.Rule) map[ast.Var]ast.Ref {
	defined, bare := map[ast.Var]ast.Ref{}, map[ast.Var]int{}
	var v *ast.GenericVisitor
	v = ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.Head:
			for _, t := range headTerms(x) {
				v.Walk(t)
			}
			return true
		case *ast.Expr:
			if object, _, ok := lookup(x.Terms); ok {
				if _, ok := object.Value.(ast.Var); ok {
					for _, t := range x.Operands()[1:] {
						v.Walk(t)
					}
					for _, with := range x.With {
						v.Walk(with)
					}
					return true
				}
			}
			if name, ref := naming(x); name != "" && isConstant(ref) {
				defined[name] = ref
			}
		case ast.Ref:
			if _, ok := x[0].Value.(ast.Var); !ok {
				v.Walk(x[0])
			}
			for _, t := range x[1:] {
				v.Walk(t)
			}
			return true
		case ast.Var:
			bare[x]++
		}
		return false
	})
	v.Walk(r)
	for name, ref := range defined {
		head, ok := ref[0].Value.(ast.Var)
		if bare[name] != 1 || !ok || head == name {
			delete(defined, name)
		}
	}
	return defined
}

// headTerms are what a head is made of, but its name.
func headTerms(h *ast.Head) []*ast.Term {
	out := slices.Clone(h.Args)
	for _, t := range []*ast.Term{h.Key, h.Value} {
		if t != nil {
			out = append(out, t)
		}
	}
	return append(out, h.Reference[min(1, len(h.Reference)):]...)
}
