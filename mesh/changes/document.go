package changes

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"meshseal/identity"
	"meshseal/snapshot"

	_ "meshseal/mesh/internal/envoytypes" // what a typed_config may hold
)

// value is a part of a resource: *message, list or scalar.
type value any

// message is a message or a map: members in order, each name once.
type message struct {
	kind    string // full name of the message; "" for a map
	members []member
}

type member struct {
	name string
	value
}

type list []value

// scalar is a value as text, a string quoted.
type scalar string

// typeKey is the member of a message that stood in an Any: the type's URL.
const typeKey = "@type"

func (m *message) get(name string) value {
	if m == nil {
		return nil
	}
	for _, f := range m.members {
		if f.name == name {
			return f.value
		}
	}
	return nil
}

func (m *message) child(name string) *message {
	c, _ := m.get(name).(*message)
	return c
}

func (m *message) remove(name string) {
	m.members = slices.DeleteFunc(m.members, func(f member) bool { return f.name == name })
}

// part is how much of a resource document reads.
type part bool

const (
	whole          part = true
	withoutDerived part = false // not what the build derives from content
)

// document reads a resource; nil if its type is unknown or its bytes are not of
// it.
func document(url string, data []byte, p part) *message {
	m, err := (&anypb.Any{TypeUrl: url, Value: data}).UnmarshalNew()
	if err != nil {
		return nil
	}
	if t, ok := m.(*routev3.RouteConfiguration); ok && p == withoutDerived {
		withoutRouteNames(t)
	}
	out := reader{}.ofMessage(m.ProtoReflect())
	if p == withoutDerived {
		withoutMarks(out)
	}
	return out
}

// reader knows how deep in a resource it reads.
type reader struct{ depth int }

// maxDepth is far beyond any honest configuration. What lies deeper is told by
// the digest of its bytes, so that the work stays in proportion to the size.
const maxDepth = 100

func (r reader) ofMessage(m protoreflect.Message) *message {
	out := &message{kind: string(m.Descriptor().FullName())}
	if r.depth++; r.depth > maxDepth {
		out.members = []member{{"(bytes)", ofEncoded(m)}}
		return out
	}
	var fields []protoreflect.FieldDescriptor
	m.Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		fields = append(fields, f)
		return true
	})
	slices.SortFunc(fields, func(a, b protoreflect.FieldDescriptor) int { return a.Index() - b.Index() })
	for _, f := range fields {
		out.members = append(out.members, member{string(f.Name()), r.ofField(f, m.Get(f))})
	}
	if unknown := m.GetUnknown(); len(unknown) > 0 {
		out.members = append(out.members, member{"(unknown fields)", ofBytes(unknown)})
	}
	return out
}

func (r reader) ofField(f protoreflect.FieldDescriptor, v protoreflect.Value) value {
	switch {
	case f.IsMap():
		out := &message{}
		v.Map().Range(func(k protoreflect.MapKey, e protoreflect.Value) bool {
			out.members = append(out.members, member{k.String(), r.ofValue(f.MapValue(), e)})
			return true
		})
		slices.SortFunc(out.members, func(a, b member) int { return strings.Compare(a.name, b.name) })
		return out
	case f.IsList():
		out := make(list, v.List().Len())
		for i := range out {
			out[i] = r.ofValue(f, v.List().Get(i))
		}
		return out
	}
	return r.ofValue(f, v)
}

func (r reader) ofValue(f protoreflect.FieldDescriptor, v protoreflect.Value) value {
	switch f.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return r.ofWellKnown(v.Message())
	case protoreflect.EnumKind:
		if e := f.Enum().Values().ByNumber(v.Enum()); e != nil {
			return scalar(e.Name())
		}
		return scalar(strconv.Itoa(int(v.Enum())))
	case protoreflect.BytesKind:
		return ofBytes(v.Bytes())
	case protoreflect.StringKind:
		return scalar(strconv.Quote(v.String()))
	}
	return scalar(fmt.Sprint(v.Interface()))
}

func ofBytes(data []byte) scalar {
	return scalar(fmt.Sprintf("%d bytes, %s", len(data), identity.SumDigest(data)))
}

func ofEncoded(m protoreflect.Message) scalar {
	data, err := snapshot.Canonical(m.Interface())
	if err != nil {
		return scalar(strconv.Quote(err.Error()))
	}
	return ofBytes(data)
}

// ofWellKnown is ofMessage, but for the messages that stand for another value.
func (r reader) ofWellKnown(m protoreflect.Message) value {
	if len(m.GetUnknown()) > 0 {
		return r.ofMessage(m)
	}
	switch w := m.Interface().(type) {
	case *anypb.Any:
		return r.ofAny(w)
	case *durationpb.Duration:
		// A time.Duration is shorter than a protobuf one.
		if proto.Equal(durationpb.New(w.AsDuration()), w) {
			return scalar(w.AsDuration().String())
		}
	case *structpb.Struct:
		if r.depth++; r.depth > maxDepth {
			return ofEncoded(m)
		}
		f := m.Descriptor().Fields().ByName("fields")
		return r.ofField(f, m.Get(f))
	case *structpb.Value:
		return r.ofStructValue(w)
	case *structpb.ListValue:
		if r.depth++; r.depth > maxDepth {
			return ofEncoded(m)
		}
		out := make(list, len(w.GetValues()))
		for i, v := range w.GetValues() {
			out[i] = r.ofWellKnown(v.ProtoReflect())
		}
		return out
	case *wrapperspb.BoolValue, *wrapperspb.StringValue, *wrapperspb.BytesValue,
		*wrapperspb.UInt32Value, *wrapperspb.Int32Value, *wrapperspb.UInt64Value, *wrapperspb.Int64Value,
		*wrapperspb.FloatValue, *wrapperspb.DoubleValue:
		f := m.Descriptor().Fields().ByName("value")
		return r.ofValue(f, m.Get(f))
	}
	return r.ofMessage(m)
}

func (r reader) ofStructValue(v *structpb.Value) value {
	switch k := v.GetKind().(type) {
	case *structpb.Value_StringValue:
		return scalar(strconv.Quote(k.StringValue))
	case *structpb.Value_NumberValue:
		return scalar(strconv.FormatFloat(k.NumberValue, 'g', -1, 64))
	case *structpb.Value_BoolValue:
		return scalar(strconv.FormatBool(k.BoolValue))
	case *structpb.Value_StructValue:
		return r.ofWellKnown(k.StructValue.ProtoReflect())
	case *structpb.Value_ListValue:
		return r.ofWellKnown(k.ListValue.ProtoReflect())
	}
	return scalar("null")
}

// ofAny is what an Any holds; its bytes' digest where that cannot be read.
func (r reader) ofAny(a *anypb.Any) *message {
	out := &message{}
	if m, err := a.UnmarshalNew(); err == nil && r.depth < maxDepth {
		out = r.ofMessage(m.ProtoReflect())
	} else {
		out.kind = a.GetTypeUrl()
		out.members = []member{{"(bytes)", ofBytes(a.GetValue())}}
	}
	out.members = slices.Insert(out.members, 0, member{typeKey, scalar(strconv.Quote(a.GetTypeUrl()))})
	return out
}
