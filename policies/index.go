package policies

import (
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// safeBuiltins are those that are never an error, whatever they are given.
var safeBuiltins = strings.Fields(`
	assign eq equal gt gte lt lte neq internal.member_2 internal.member_3
	is_array is_boolean is_null is_number is_object is_set is_string type_name
`)

// neverFails reports whether no evaluation of a program can end in an error: it
// calls nothing that can be one, and no two rules or values can contradict each
// other. It is false where that cannot be told.
func neverFails(compiler *ast.Compiler) bool {
	w := newWalk(compiler)
	for _, r := range w.rules {
		if r.other == nil && !w.agrees(r) {
			return false
		}
		w.visit(r.rule)
	}
	w.run()
	for name := range w.called {
		if !slices.Contains(safeBuiltins, name) {
			return false
		}
	}
	return !w.contradicts
}

// agrees reports whether a rule has one constant value, and all that is at its
// path has the same.
func (w *walk) agrees(r named) bool {
	if r.rule.Default || r.rule.Head.RuleKind() == ast.MultiValue {
		return true
	}
	want := r.rule.Head.Value
	if want == nil || !want.IsGround() {
		return false
	}
	for _, o := range w.rules {
		if !overlap(o.path, r.path) || o.rule.Default {
			continue
		}
		for part := o.rule; part != nil; part = part.Else {
			if part.Head.Value == nil || !part.Head.Value.Equal(want) {
				return false
			}
		}
	}
	return true
}
