package policies

import (
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// seen are the values in an expression that failed. The compiler has taken
// calls apart, so that count(input.x) > 3 is a variable of its own compared
// with 3; it is shown under the call that it came from.
func seen(r *ast.Rule, x *ast.Expr, e *topdown.Event) []SeenValue {
	s := &sight{rule: r, event: e, known: map[string]bool{}}
	s.look(x)
	return s.values
}

type sight struct {
	rule   *ast.Rule
	event  *topdown.Event
	known  map[string]bool
	values []SeenValue
}

func (s *sight) look(x any) {
	ast.NewGenericVisitor(func(n any) bool {
		switch n := n.(type) {
		case *ast.Expr:
			return false
		case ast.Ref:
			if n.HasPrefix(ast.InputRootRef) {
				s.input(n)
			} else {
				s.variables(n)
			}
			return true
		case ast.Var:
			s.variable(n)
		case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension, *ast.Every:
			return true // what is inside has values of its own, many times
		}
		return false
	}).Walk(x)
}

// input is a part of the input document.
func (s *sight) input(ref ast.Ref) {
	full, ok := s.event.Plug(ast.NewTerm(ref)).Value.(ast.Ref)
	if !ok || !full.IsGround() || s.event.Input() == nil {
		s.variables(ref)
		return
	}
	v, err := s.event.Input().Value.Find(full[1:])
	if err != nil {
		s.add(full.String(), "undefined")
		return
	}
	s.add(full.String(), v.String())
}

// variables are those that a reference goes through: data.shop[name].
func (s *sight) variables(ref ast.Ref) {
	for _, part := range ref[1:] {
		s.look(part)
	}
	if head, ok := ref[0].Value.(ast.Var); ok {
		s.variable(head)
	}
}

func (s *sight) variable(v ast.Var) {
	if v.IsWildcard() || v == ast.DefaultRootDocument.Value || v == ast.InputRootDocument.Value {
		return
	}
	value := s.event.Plug(ast.NewTerm(v))
	if value == nil || !value.IsGround() {
		return
	}
	if name := s.name(v, 0); name != "" {
		s.add(name, value.String())
	}
}

func (s *sight) add(name, value string) {
	if name = shown(name); !s.known[name] {
		s.known[name] = true
		s.values = append(s.values, SeenValue{name, shown(value)})
	}
}

const maxNested = 4 // calls within calls

// name is what the author would call a variable: its own name, or the call
// that the compiler put into it; empty for neither.
func (s *sight) name(v ast.Var, depth int) string {
	if m, ok := s.event.LocalMetadata[v]; ok && !m.Name.IsGenerated() {
		return string(m.Name)
	}
	if !v.IsGenerated() {
		return string(v)
	}
	name := ""
	ast.WalkExprs(s.rule, func(x *ast.Expr) bool {
		if terms, ok := x.Terms.([]*ast.Term); ok && name == "" && depth < maxNested {
			name = s.made(v, terms, depth)
		}
		return name != ""
	})
	return name
}

// made is the text of a call whose result is v.
func (s *sight) made(v ast.Var, terms []*ast.Term, depth int) string {
	last := terms[len(terms)-1]
	if len(terms) == 3 && terms[0].String() == ast.Equality.Name {
		switch {
		case terms[1].Value.Compare(v) == 0:
			return s.text(terms[2], depth)
		case last.Value.Compare(v) == 0:
			return s.text(terms[1], depth)
		}
		return ""
	}
	if len(terms) < 2 || last.Value.Compare(v) != 0 {
		return ""
	}
	args := make([]string, 0, len(terms)-2)
	for _, t := range terms[1 : len(terms)-1] {
		args = append(args, s.text(t, depth))
	}
	return terms[0].String() + "(" + strings.Join(args, ", ") + ")"
}

func (s *sight) text(t *ast.Term, depth int) string {
	if v, ok := t.Value.(ast.Var); ok {
		if name := s.name(v, depth+1); name != "" {
			return name
		}
	}
	return t.String()
}
