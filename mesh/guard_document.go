package mesh

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Keys that guardDocument adds to the fields of a message.
const (
	typeKey = "@type" // full name of the message
	anyKey  = "@any"  // type URL of the Any that it stood in
)

// guardDocument is m as JSON for the guardrails: protojson with the field
// names of the .proto file, and with the type of every message in it, since a
// guardrail asks for every message of a type wherever it stands. An Any whose
// type is not linked has a type URL and no type; a guardrail refuses it.
func guardDocument(m protoreflect.Message) map[string]any {
	out := map[string]any{typeKey: string(m.Descriptor().FullName())}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		out[string(f.Name())] = guardField(f, v)
		return true
	})
	return out
}

func guardField(f protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch {
	case f.IsMap():
		out := map[string]any{}
		v.Map().Range(func(k protoreflect.MapKey, e protoreflect.Value) bool {
			out[k.String()] = guardValue(f.MapValue(), e)
			return true
		})
		return out
	case f.IsList():
		out := make([]any, v.List().Len())
		for i := range out {
			out[i] = guardValue(f, v.List().Get(i))
		}
		return out
	}
	return guardValue(f, v)
}

func guardValue(f protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch f.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return guardMessage(v.Message())
	case protoreflect.EnumKind:
		if e := f.Enum().Values().ByNumber(v.Enum()); e != nil {
			return string(e.Name())
		}
		return int64(v.Enum())
	case protoreflect.BytesKind:
		return base64.StdEncoding.EncodeToString(v.Bytes())
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return v.Int()
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return int64(v.Uint())
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return strconv.FormatUint(v.Uint(), 10) // as protojson: JSON numbers are too short
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return strconv.FormatInt(v.Int(), 10)
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return strconv.FormatFloat(v.Float(), 'g', -1, 64) // NaN and Inf are no JSON numbers
	}
	return v.Interface()
}

// guardMessage is guardDocument, but for the messages that stand for a plain
// value. What m is of an unlinked or dynamic type is read by its fields.
func guardMessage(m protoreflect.Message) any {
	switch w := m.Interface().(type) {
	case *anypb.Any:
		inner, err := w.UnmarshalNew()
		if err != nil {
			return map[string]any{anyKey: w.GetTypeUrl()}
		}
		doc := guardDocument(inner.ProtoReflect())
		doc[anyKey] = w.GetTypeUrl()
		return doc
	case *durationpb.Duration:
		return w.AsDuration().String()
	case *structpb.Struct:
		return map[string]any{typeKey: "google.protobuf.Struct", "value": w.AsMap()}
	case *structpb.Value:
		return map[string]any{typeKey: "google.protobuf.Value", "value": w.AsInterface()}
	case *wrapperspb.BoolValue, *wrapperspb.StringValue, *wrapperspb.BytesValue,
		*wrapperspb.UInt32Value, *wrapperspb.Int32Value, *wrapperspb.UInt64Value, *wrapperspb.Int64Value,
		*wrapperspb.FloatValue, *wrapperspb.DoubleValue:
		f := m.Descriptor().Fields().ByName("value")
		return guardValue(f, m.Get(f))
	}
	return guardDocument(m)
}

// locate is where the end of a path through root stands, or else the last part
// of the path that a file has.
func (p *proxyConfig) locate(root proto.Message, path []any) position {
	pos, rest := p.at(root), path
	at := guardCursor{p: p, message: root.ProtoReflect()}
	for i, step := range path {
		if !at.step(step) {
			break
		}
		if at.message == nil {
			continue
		}
		if found, here := p.origin[at.message.Interface()]; here {
			pos, rest = found, path[i+1:]
		}
	}
	return p.sources[pos.file].below(pos, rest)
}

// below is where a path of fields and elements stands that begins at pos, as
// far as the file has it.
func (s *source) below(pos position, path []any) position {
	if s == nil {
		return pos
	}
	at := s.places[[2]int{pos.line, pos.column}]
	for _, step := range path {
		next, isField := "", false
		if i, isElement := step.(int); isElement {
			next = fmt.Sprintf("%s[%d]", at, i)
		} else if next, isField = step.(string); isField {
			next = join(at, next)
		}
		found, ok := s.keys[next]
		if name, _ := step.(string); !ok && isField { // as protojson writes it
			next = join(at, camel(name))
			found, ok = s.keys[next]
		}
		if !ok {
			return pos
		}
		at, pos = next, found
	}
	return pos
}

// camel is the JSON name of a field.
func camel(name string) string {
	parts := strings.Split(name, "_")
	for i, p := range parts[1:] {
		if p != "" {
			parts[i+1] = strings.ToUpper(p[:1]) + p[1:]
		}
	}
	return strings.Join(parts, "")
}

// guardCursor walks a message along the path of a document that guardDocument
// made. Between two messages it stands on a list or a map.
type guardCursor struct {
	p       *proxyConfig
	message protoreflect.Message
	list    protoreflect.List
	dict    protoreflect.Map
	field   protoreflect.FieldDescriptor
}

// step goes on by one element of a path; false if there is no message on it.
func (c *guardCursor) step(s any) bool {
	switch {
	case c.list != nil:
		i, ok := s.(int)
		if !ok || i < 0 || i >= c.list.Len() {
			return false
		}
		return c.enter(c.field, c.list.Get(i))
	case c.dict != nil:
		key, ok := s.(string)
		if !ok || c.field.MapKey().Kind() != protoreflect.StringKind {
			return false
		}
		v := c.dict.Get(protoreflect.ValueOfString(key).MapKey())
		return v.IsValid() && c.enter(c.field.MapValue(), v)
	}
	key, ok := s.(string)
	if !ok || c.message == nil {
		return false
	}
	f := c.message.Descriptor().Fields().ByName(protoreflect.Name(key))
	if f == nil || !c.message.Has(f) {
		return false
	}
	v := c.message.Get(f)
	switch {
	case f.IsList():
		c.field, c.list, c.message = f, v.List(), nil
		return true
	case f.IsMap():
		c.field, c.dict, c.message = f, v.Map(), nil
		return true
	}
	return c.enter(f, v)
}

func (c *guardCursor) enter(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
	if f.Message() == nil {
		return false
	}
	m := v.Message()
	if a, ok := m.Interface().(*anypb.Any); ok {
		inner, err := c.p.unpack(a)
		if err != nil {
			return false
		}
		m = inner.ProtoReflect()
	}
	c.message, c.list, c.dict = m, nil, nil
	return true
}
