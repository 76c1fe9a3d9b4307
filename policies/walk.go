package policies

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// walk goes over the rules that can be reached from an entry point and notes
// what they read of the input and which built-ins they call. Where it cannot
// tell, it takes more: a rule that is called by a name that is computed is every
// rule below what of the name is constant.
type walk struct {
	rules   []named
	visited map[*ast.Rule]bool
	next    []*ast.Rule

	// names are variables that are nothing but another name of a part of the
	// input, in the rule that is walked.
	names map[ast.Var]ast.Ref
	at    *ast.Location

	found   map[string]*part
	reasons []impure
	called  map[string]bool // built-in functions
	// contradicts: there is an object comprehension, in which two values can have
	// one key, or a `with`, of which the place can be taken.
	contradicts bool
}

// named is a rule and where it is.
type named struct {
	rule *ast.Rule
	path ast.Ref
	// other is set where the rule is nothing but another name of a part of the
	// input: http := input.attributes.request.http.
	other ast.Ref
}

func newWalk(compiler *ast.Compiler) *walk {
	w := &walk{visited: map[*ast.Rule]bool{}, found: map[string]*part{}, called: map[string]bool{}}
	for _, m := range compiler.Modules {
		for _, r := range m.Rules {
			w.rules = append(w.rules, named{rule: r, path: r.Ref().GroundPrefix()})
		}
	}
	for i, r := range w.rules {
		alone := !slices.ContainsFunc(w.rules, func(o named) bool { return o.rule != r.rule && overlap(o.path, r.path) })
		if alone {
			w.rules[i].other = w.otherName(r.rule)
		}
	}
	return w
}

// run walks what is still to be walked.
func (w *walk) run() {
	for len(w.next) > 0 {
		r := w.next[0]
		w.next = w.next[1:]
		w.at = r.Loc()
		w.names = otherNames(r)
		w.walk(r)
	}
}

// walk notes what is read by x and below.
func (w *walk) walk(x any) {
	var v *ast.GenericVisitor
	v = ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.Head:
			for _, t := range headTerms(x) {
				v.Walk(t)
			}
			return true
		case *ast.Expr:
			return w.expr(x)
		case *ast.ObjectComprehension:
			w.contradicts = true
		case ast.Call:
			w.call(x)
			return true
		case ast.Ref:
			w.ref(x, whole)
			return true
		case ast.Var:
			w.variable(x)
		}
		return false
	})
	v.Walk(x)
}

// expr notes what an expression reads, and reports whether that was all of it.
func (w *walk) expr(e *ast.Expr) bool {
	before := w.at
	if e.Location != nil {
		w.at = e.Location
	}
	defer func() { w.at = before }()
	for _, with := range e.With {
		w.contradicts = true
		// What is put into the input stands beside what is there, or in its place.
		if target, ok := with.Target.Value.(ast.Ref); !ok || len(target) > 1 {
			w.walk(with.Target)
		}
		w.walk(with.Value)
	}
	switch terms := e.Terms.(type) {
	case []*ast.Term:
		if name, ref := naming(e); name != "" && w.names[name] != nil {
			w.ref(ref, presence)
			return true
		}
		w.call(terms)
		return true
	case *ast.Term:
		if ref, ok := terms.Value.(ast.Ref); ok {
			w.ref(ref, presence)
			return true
		}
	}
	w.walk(e.Terms)
	return true
}

// call notes what a call reads: a built-in's name, a function's rules, and the
// arguments.
func (w *walk) call(terms []*ast.Term) {
	w.walk(terms[0])
	args := terms[1:]
	if object, path, ok := lookup(terms); ok {
		if ref := w.named(object); ref != nil {
			// Whether the object is there decides too: without it the call is
			// undefined, and with it the default may be what it gives.
			w.ref(ref, presence)
			w.ref(ref.Concat(path), whole)
			args = args[2:]
		}
	}
	for _, arg := range args {
		w.walk(arg)
	}
}

// named is the ref that a term is or stands for; nil if there is none.
func (w *walk) named(t *ast.Term) ast.Ref {
	switch v := t.Value.(type) {
	case ast.Ref:
		return v
	case ast.Var:
		return w.names[v]
	}
	return nil
}

// lookup is the object of a call of object.get, and the constant path that is
// looked for in it.
func lookup(x any) (object *ast.Term, path []*ast.Term, ok bool) {
	terms, _ := x.([]*ast.Term)
	if len(terms) < 4 || terms[0].String() != ast.ObjectGet.Name {
		return nil, nil, false
	}
	path, ok = constantPath(terms[2])
	return terms[1], path, ok
}

// constantPath are the names of a constant second argument of object.get.
func constantPath(t *ast.Term) ([]*ast.Term, bool) {
	switch v := t.Value.(type) {
	case ast.String:
		return []*ast.Term{t}, true
	case *ast.Array:
		var path []*ast.Term
		for i := range v.Len() {
			if _, ok := v.Elem(i).Value.(ast.String); !ok {
				return nil, false
			}
			path = append(path, v.Elem(i))
		}
		return path, len(path) > 0
	}
	return nil, false
}

func (w *walk) variable(v ast.Var) {
	switch {
	case v.Equal(ast.InputRootDocument.Value):
		w.input(nil, whole)
	case v.Equal(ast.DefaultRootDocument.Value):
		w.data(ast.Ref{ast.DefaultRootDocument}, whole)
	default:
		w.builtin(string(v))
		if ref, ok := w.names[v]; ok {
			w.ref(ref, whole)
		}
	}
}

// ref notes what is read of something that is named from its root.
func (w *walk) ref(ref ast.Ref, how use) {
	for _, element := range ref[1:] {
		if _, ok := element.Value.(ast.String); !ok {
			w.walk(element)
		}
	}
	head, ok := ref[0].Value.(ast.Var)
	switch {
	case !ok:
		w.walk(ref[0])
	case isInput(ref):
		w.input(ref[1:], how)
	case head.Equal(ast.DefaultRootDocument.Value):
		w.data(ref, how)
	default:
		w.builtin(ref.String())
		if named, ok := w.names[head]; ok {
			w.ref(named.Concat(ref[1:]), how)
		}
	}
}

// data notes the rules that a ref can reach.
func (w *walk) data(ref ast.Ref, how use) {
	constant := ref[:1]
	for _, element := range ref[1:] {
		if _, ok := element.Value.(ast.String); !ok {
			break
		}
		constant = ref[:len(constant)+1]
	}
	for _, r := range w.rules {
		switch {
		case !overlap(r.path, constant):
		case r.other == nil:
			w.visit(r.rule)
		case len(constant) >= len(r.path):
			w.ref(r.other.Concat(ref[len(r.path):]), how)
		default:
			w.ref(r.other, whole)
		}
	}
}

func (w *walk) visit(r *ast.Rule) {
	if !w.visited[r] {
		w.visited[r] = true
		w.next = append(w.next, r)
	}
}

// builtin notes a built-in function, if that is the name of one.
func (w *walk) builtin(name string) {
	if ast.BuiltinMap[name] == nil {
		return
	}
	w.called[name] = true
	switch why, known := unsteadyBuiltins[name]; {
	case known:
		w.against(name + " " + why)
	case !slices.Contains(steadyBuiltins, name):
		w.against(name + " is not known to be pure")
	}
}
