package request

import (
	"encoding/base64"
	"math"
	"strconv"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// DocumentOptions are what AppendDocument is told.
type DocumentOptions struct {
	// Secret reports whether a header is left out; name is in lower case.
	Secret func(name, value string) bool
	// Meshseal is input.meshseal, as JSON.
	Meshseal []byte
}

// AppendDocument appends the input of a record to dst, as JSON: the document that
// a policy would get of the request without its certificates, its body and the
// headers that are secret. What is left out is appended to erased, as a list of
// JSON pointers (RFC 6901). Where the path or the query is malformed it is the
// document without what is made of them: policies.Unparsed. It is false, and
// nothing appended, for a request that has to be decoded: one whose bytes Read did
// not read by itself, and one with more parts than are looked for here.
func (r *Request) AppendDocument(dst, erased []byte, o DocumentOptions) (document, pointers []byte, ok bool) {
	if !r.scanned || !r.Attributes {
		return dst, erased, false
	}
	d := documenter{r: r, b: append(dst, `{"attributes":`...), erased: append(erased, '['), secret: o.Secret}
	attributes, ok := only(r.wire)
	if !ok || !d.message(attributesMessage, attributes, "", 0) || !d.target() {
		return dst, erased, false
	}
	if r.Source.Principal != "" {
		d.b = AppendString(append(d.b, `,"source_principal":`...), r.Source.Principal)
	}
	d.b = append(append(d.b, `,"meshseal":`...), o.Meshseal...)
	return append(d.b, '}'), append(d.erased, ']'), true
}

// only is the one field of a CheckRequest.
func only(wire []byte) ([]byte, bool) {
	f, value, _, rest, ok := checkRequest.next(wire)
	return value, ok && f.use == useAttributes && len(rest) == 0
}

// documenter writes the document of a request that Read has read.
type documenter struct {
	r      *Request
	b      []byte
	erased []byte
	secret func(name, value string) bool
	body   bool // one was left out
}

// message writes a message as opa-envoy-plugin v1.14.1 does: see
// policies/document.go. of is the name of the field that it stands in.
func (d *documenter) message(m *message, b []byte, of string, depth int) bool {
	if depth > maxNesting {
		return false
	}
	if m.object {
		return d.structure(m, b, depth)
	}
	d.b = append(d.b, '{')
	begin := len(d.b)
	var listed uint64 // lists that are written, by the low bits of their numbers
	for len(b) > 0 {
		f, value, number, rest, ok := m.next(b)
		if !ok {
			return false
		}
		if f.list || f.entries || f.use == useHeaderMap {
			bit := uint64(1) << (f.number & 63)
			if listed&bit != 0 {
				return false
			}
			listed |= bit
			if rest, ok = d.repeated(m, f, b, begin, depth); !ok {
				return false
			}
		} else if !d.single(f, value, number, of, begin, depth) {
			return false
		}
		b = rest
	}
	d.b = append(d.b, '}')
	return true
}

// member begins a member of the object that began at begin.
func (d *documenter) member(name string, begin int) {
	if len(d.b) > begin {
		d.b = append(d.b, ',')
	}
	d.b = append(d.b, name...)
}

func (d *documenter) single(f *field, value []byte, number uint64, of string, begin, depth int) bool {
	if f.implicit && len(value) == 0 && number == 0 {
		return true
	}
	switch f.use {
	case useCertificate:
		d.erase("attributes/", of, "/certificate")
		return true
	case useBody:
		d.erase("attributes/request/http/", f.name, "")
		d.body = true
		return true
	}
	d.member(f.member, begin)
	return d.value(f, value, number, depth)
}

func (d *documenter) value(f *field, value []byte, number uint64, depth int) bool {
	switch f.kind {
	case protoreflect.StringKind:
		d.b = AppendString(d.b, textOf(value))
	case protoreflect.BytesKind:
		d.b = append(base64.StdEncoding.AppendEncode(append(d.b, '"'), value), '"')
	case protoreflect.BoolKind:
		d.b = strconv.AppendBool(d.b, number != 0)
	case protoreflect.Int32Kind, protoreflect.EnumKind:
		d.b = strconv.AppendInt(d.b, int64(int32(number)), 10)
	case protoreflect.Int64Kind:
		d.b = strconv.AppendInt(d.b, int64(number), 10)
	case protoreflect.Uint32Kind:
		d.b = strconv.AppendUint(d.b, uint64(uint32(number)), 10)
	case protoreflect.Uint64Kind:
		d.b = strconv.AppendUint(d.b, number, 10)
	case protoreflect.DoubleKind:
		d.b = appendFloat(d.b, math.Float64frombits(number))
	case protoreflect.MessageKind:
		return d.message(f.message, value, f.name, depth+1)
	default:
		return false
	}
	return true
}

// repeated writes a list or a map whose parts stand one after the other in b, and
// returns what follows.
func (d *documenter) repeated(m *message, f *field, b []byte, begin, depth int) (rest []byte, ok bool) {
	if f.use == useHeaderMap || f.use == useHeaders {
		for next := f; next == f; {
			if _, _, _, b, ok = m.next(b); !ok {
				return nil, false
			}
			if len(b) == 0 {
				break
			}
			if next, _, _, _, ok = m.next(b); !ok {
				return nil, false
			}
		}
		d.headers(begin)
		return b, true
	}
	d.member(f.member, begin)
	open, end := byte('['), byte(']')
	if f.entries {
		open, end = '{', '}'
	}
	d.b = append(d.b, open)
	first := len(d.b)
	whole := b
	for len(b) > 0 {
		next, value, number, after, ok := m.next(b)
		if !ok {
			return nil, false
		}
		if next != f {
			break
		}
		if len(d.b) > first {
			d.b = append(d.b, ',')
		}
		of := f
		if f.entries {
			of = f.message.fields[2]
			if value, ok = d.key(m, f, whole, value, len(whole)-len(b)); !ok {
				return nil, false
			}
		}
		if !d.value(of, value, number, depth) {
			return nil, false
		}
		b = after
	}
	d.b = append(d.b, end)
	return b, true
}

// maxBefore bounds how many bytes of a map are looked through for a key.
const maxBefore = 4096

// key writes the key of an entry b of the map f, whose entries begin with whole,
// and is its value. It is false where the key stands in one before: of those, the
// last would count. So it is where there is too much before to look through for
// each key.
func (d *documenter) key(m *message, f *field, whole, b []byte, at int) (value []byte, ok bool) {
	key, value, ok := mapEntry(f.message, b)
	if !ok || at > maxBefore {
		return nil, false
	}
	for before := whole; len(whole)-len(before) < at; {
		_, other, _, rest, ok := m.next(before)
		if !ok {
			return nil, false
		}
		if k, _, ok := mapEntry(f.message, other); !ok || string(k) == string(key) {
			return nil, false
		}
		before = rest
	}
	d.b = append(AppendString(d.b, textOf(key)), ':')
	return value, true
}

// headers writes the headers that are no secret: by name, those of one name joined.
func (d *documenter) headers(begin int) {
	var room [32]Header
	list := append(room[:0], d.r.Headers...)
	sortByName(list)
	before := len(d.b)
	d.member(`"headers":{`, begin)
	first := len(d.b)
	for len(list) > 0 {
		var same []Header
		same, list = ofOneName(list)
		name, value := same[0].Name, joined(same)
		if d.secret(strings.ToLower(name), value) {
			d.erase("attributes/request/http/headers/", name, "")
			continue
		}
		if len(d.b) > first {
			d.b = append(d.b, ',')
		}
		d.b = AppendString(append(AppendString(d.b, name), ':'), value)
	}
	if len(d.b) == first {
		d.b = d.b[:before]
	} else {
		d.b = append(d.b, '}')
	}
}

// erase notes a JSON pointer below the input.
func (d *documenter) erase(path, name, last string) {
	if len(d.erased) > 1 && d.erased[len(d.erased)-1] != '[' {
		d.erased = append(d.erased, ',')
	}
	if strings.ContainsAny(name, "~/") {
		name = strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
	}
	d.erased = append(append(d.erased, `"/input/`...), path...)
	d.erased = appendEscaped(d.erased, name)
	d.erased = append(append(d.erased, last...), '"')
}
