package policies

import (
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"google.golang.org/protobuf/reflect/protoreflect"

	"meshseal/request"
)

// shape is what of the input document a program can read: an object of fields,
// or a part.
type shape struct {
	fields []field
	part   *part // nil for an object of fields
	there  *part // for an object: what says whether it is there, if that is read
}

type field struct {
	name  string
	term  *ast.Term
	shape *shape
}

// shapeOf is the document of some parts; nil for the whole one.
func shapeOf(parts []*part) *shape {
	root := &shape{}
	for _, p := range parts {
		if p.kind == wholePart {
			return nil
		}
		path := p.path
		if p.kind == valuesPart { // the query is parsed as a whole
			path = path[:len(path)-1]
		}
		at := root
		for _, name := range path {
			at = at.field(name)
		}
		switch {
		case p.kind == presencePart:
			at.there = p
		case at.part == nil || at.part.kind == segmentPart || at.part.kind == valuesPart:
			at.part = p
		}
	}
	return root
}

func (s *shape) field(name string) *shape {
	for _, f := range s.fields {
		if f.name == name {
			return f.shape
		}
	}
	s.fields = append(s.fields, field{name, ast.InternedTerm(name), &shape{}})
	return s.fields[len(s.fields)-1].shape
}

// InputOf is the input document with what the program can read of it, for Eval.
// Its strings are parts of those of r. The errors are those of Input, and a
// Fault of the request is one too.
func (p *Program) InputOf(r *request.Request, f *Facts) (any, error) {
	switch {
	case r.Fault() != "":
		return nil, fmt.Errorf("%w: %s", ErrInput, r.Fault())
	case p.reads.shape == nil || !r.Attributes || !p.reads.known(r):
		return p.Input(r.Message(), *f)
	}
	in := pruned{r: r, f: f}
	if err := in.parse(p.messages()); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInput, err)
	}
	v := in.value(p.reads.shape)
	if v == nil {
		return ast.InternedEmptyObjectValue, nil
	}
	return v.Value, in.err
}

// parse takes apart what can be malformed: the path, the query and the body.
func (d *pruned) parse(messages *descriptors) (err error) {
	if d.path, d.query, err = parsePath(d.r.Path); err != nil || simple(d.r) {
		return err
	}
	http := d.r.Message().GetAttributes().GetRequest().GetHttp()
	d.body, d.truncated, err = messages.parseBody(http, d.path)
	return err
}

// known reports whether the request tells of each part that is read whether it
// is there.
func (d *reads) known(r *request.Request) bool {
	for _, p := range d.parts {
		switch p.kind {
		case presencePart:
			if _, known := p.there(r); !known {
				return false
			}
		case portPart:
			if p.port(r) == 0 {
				return false
			}
		}
	}
	return true
}

// pruned is an input document while it is made.
type pruned struct {
	r     *request.Request
	f     *Facts
	path  []any
	query map[string]any

	body      any // parsed
	truncated bool

	err error
}

// value is what the document has at a shape; nil if nothing.
func (d *pruned) value(s *shape) *ast.Term {
	if s.part != nil {
		return d.part(s.part)
	}
	pairs := make([][2]*ast.Term, 0, len(s.fields))
	for _, f := range s.fields {
		if v := d.value(f.shape); v != nil {
			pairs = append(pairs, [2]*ast.Term{f.term, v})
		}
	}
	if len(pairs) == 0 {
		if s.there == nil {
			return nil
		}
		if is, _ := s.there.there(d.r); !is {
			return nil
		}
	}
	return ast.ObjectTerm(pairs...)
}

func (d *pruned) part(p *part) *ast.Term {
	switch p.kind {
	case textPart, certificatePart:
		if s := p.text(d.r, d.f); s != "" {
			return ast.StringTerm(s)
		}
	case factPart:
		return ast.StringTerm(p.text(d.r, d.f))
	case agreedPart:
		terms := make([]*ast.Term, len(d.f.EvidenceAgreed))
		for i, kind := range d.f.EvidenceAgreed {
			terms[i] = ast.StringTerm(kind)
		}
		return ast.ArrayTerm(terms...)
	case portPart:
		return ast.UIntNumberTerm(uint64(p.port(d.r)))
	case sizePart:
		if d.r.Size != 0 {
			return d.any(integer(d.r.Size))
		}
	case headersPart:
		return d.headers()
	case headerPart:
		if value, ok := d.r.Header(p.path[len(p.path)-1]); ok {
			return ast.StringTerm(value)
		}
	case bodyPart:
		switch p.path[len(p.path)-1] {
		case "parsed_body":
			return d.any(d.body)
		case "truncated_body":
			return ast.InternedTerm(d.truncated)
		}
		if d.r.HasBody {
			return d.message(p.path)
		}
	case constantPart:
		return version
	case pathPart, segmentPart:
		return d.any(d.path)
	case queryPart, valuesPart:
		return d.any(d.query)
	case messagePart:
		return d.message(p.path)
	}
	return nil
}

var version = ast.NewTerm(ast.MustInterfaceToValue(versionDocument))

func (d *pruned) any(v any) *ast.Term {
	value, err := ast.InterfaceToValue(v)
	if err != nil {
		d.err = fmt.Errorf("%w: %w", ErrInput, err)
		return nil
	}
	return ast.NewTerm(value)
}

// headers are all of them; absent where there is none.
func (d *pruned) headers() *ast.Term {
	if len(d.r.Headers) == 0 {
		return nil
	}
	sorted := slices.Clone(d.r.Headers)
	slices.SortStableFunc(sorted, func(a, b request.Header) int { return strings.Compare(a.Name, b.Name) })
	pairs := make([][2]*ast.Term, 0, len(sorted))
	for len(sorted) > 0 {
		n := 1
		for n < len(sorted) && sorted[n].Name == sorted[0].Name {
			n++
		}
		values := make([]string, n)
		for i, h := range sorted[:n] {
			values[i] = h.Value
		}
		pairs = append(pairs, [2]*ast.Term{ast.StringTerm(sorted[0].Name), ast.StringTerm(strings.Join(values, ","))})
		sorted = sorted[n:]
	}
	return ast.ObjectTerm(pairs...)
}

// message is what the decoded message has at a path.
func (d *pruned) message(path []string) *ast.Term {
	m := d.r.Message().ProtoReflect()
	for i, name := range path {
		field := m.Descriptor().Fields().ByJSONName(name)
		if field == nil || !m.Has(field) {
			return nil
		}
		if i == len(path)-1 {
			return d.any(fieldDocument(field, m.Get(field)))
		}
		if field.IsMap() || field.IsList() || field.Kind() != protoreflect.MessageKind {
			return nil
		}
		m = m.Get(field).Message()
	}
	return nil
}
