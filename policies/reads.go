package policies

import (
	"cmp"
	"errors"
	"slices"
	"strconv"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/open-policy-agent/opa/v1/ast"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// reads is what a program can read of the input document, from its entry point
// on: at least what it does read, for any input.
type reads struct {
	parts []*part
	// why the program's decisions are not remembered; nil if they can be.
	why error
	// shape is the document of those parts; nil for the whole one.
	shape *shape
	// decode: a part is only in the decoded message.
	decode bool
}

// Reads are the parts of the input document that the program can read, as Rego
// names them, sorted: at least what it does read. An object stands for whether
// it is there where it is not said in parts.
func (p *Program) Reads() []string {
	out := make([]string, 0, len(p.reads.parts))
	for _, part := range p.reads.parts {
		out = append(out, part.String())
	}
	return slices.Compact(out)
}

// readsOf walks what can be reached from the entry point.
func readsOf(compiler *ast.Compiler, entry ast.Ref) *reads {
	w := newWalk(compiler)
	w.ref(entry, whole)
	w.run()
	out := &reads{}
	for _, f := range w.found {
		out.parts = append(out.parts, f)
		out.decode = out.decode || f.kind == messagePart || f.kind == wholePart
	}
	slices.SortFunc(out.parts, comparePartsOf)
	out.why = w.stated()
	out.shape = shapeOf(out.parts)
	return out
}

func comparePartsOf(a, b *part) int {
	return cmp.Or(slices.Compare(a.path, b.path), cmp.Compare(a.index, b.index), cmp.Compare(a.kind, b.kind))
}

// use is what an expression wants of a part.
type use bool

const (
	whole    use = false
	presence use = true // whether it is there, and not false
)

// input notes that a part of input is read: the one at path, up to its first
// element that is not constant.
func (w *walk) input(path ast.Ref, how use) {
	at := document
	for i, element := range path {
		name, ok := element.Value.(ast.String)
		if at.part != nil {
			w.below(at.part, element)
			return
		}
		if !ok {
			w.all(at, path[:i])
			return
		}
		next := at.names[string(name)]
		if next == nil {
			w.unknown(at, path, how)
			return
		}
		at = next
	}
	if how == presence && at.there != nil {
		w.note(at.there)
		return
	}
	w.all(at, path)
}

// below is a read within a part.
func (w *walk) below(p *part, element *ast.Term) {
	within := &part{path: append(slices.Clip(p.path), "")}
	name, isName := element.Value.(ast.String)
	within.path[len(p.path)] = string(name)
	switch p.kind {
	case headersPart:
		within.kind = headerPart
	case queryPart:
		within.kind = valuesPart
	case pathPart:
		if n, ok := element.Value.(ast.Number); ok {
			if i, err := strconv.Atoi(string(n)); err == nil && i >= 0 {
				w.note(&part{kind: segmentPart, path: p.path, index: i})
				return
			}
		}
		fallthrough
	default:
		w.note(p)
		return
	}
	if !isName {
		w.note(p)
		return
	}
	w.note(within)
}

// all is a read of everything at a spot.
func (w *walk) all(at *spot, path ast.Ref) {
	switch {
	case at.part != nil:
		w.note(at.part)
	case len(path) == 0:
		w.note(&part{kind: wholePart})
	case at.complete:
		w.note(at.there)
		for _, below := range at.names {
			w.note(below.part)
		}
	default:
		w.note(&part{kind: messagePart, path: names(path)})
	}
}

// unknown is a read of what is not among the document's spots. Below
// attributes it is what the message has there; elsewhere there is nothing.
func (w *walk) unknown(at *spot, path ast.Ref, how use) {
	if first := path[0].Value.(ast.String); first != "attributes" || at == document {
		return
	}
	fields := (&authv3.CheckRequest{}).ProtoReflect().Descriptor().Fields()
	for i, element := range path {
		name, ok := element.Value.(ast.String)
		if !ok {
			break
		}
		field := fields.ByJSONName(string(name))
		if field == nil {
			return // nothing is ever there
		}
		if field.IsMap() || field.IsList() || field.Message() == nil || !plainObject(field.Message()) {
			path = path[:i+1]
			break
		}
		fields = field.Message().Fields()
	}
	for i, element := range path {
		if _, ok := element.Value.(ast.String); !ok {
			path = path[:i]
			break
		}
	}
	w.note(&part{kind: messagePart, path: names(path)})
}

// plainObject reports whether the document has the message as an object of its
// fields.
func plainObject(m protoreflect.MessageDescriptor) bool {
	return m.FullName() != "google.protobuf.Struct"
}

func names(path ast.Ref) []string {
	out := make([]string, len(path))
	for i, element := range path {
		out[i] = string(element.Value.(ast.String))
	}
	return out
}

// note adds a part, and where it is read if that stands against remembering.
func (w *walk) note(p *part) {
	key := p.String() + "\x00" + strconv.Itoa(int(p.kind))
	if w.found[key] == nil {
		w.found[key] = p
	}
	if why := p.unbounded(); why != "" {
		w.against(why)
	}
}

// impure is a reason that a program's decisions are not remembered.
type impure struct {
	at  Place
	why string
}

func (w *walk) against(why string) {
	i := impure{placeOf(w.at), why}
	if !slices.Contains(w.reasons, i) {
		w.reasons = append(w.reasons, i)
	}
}

func (w *walk) stated() error {
	slices.SortFunc(w.reasons, func(a, b impure) int {
		return cmp.Or(cmp.Compare(a.at.File, b.at.File), cmp.Compare(a.at.Line, b.at.Line), cmp.Compare(a.why, b.why))
	})
	var problems []error
	for _, r := range w.reasons {
		problems = append(problems, &FileError{At: r.at, Err: errors.New(r.why)})
	}
	return errors.Join(problems...)
}
