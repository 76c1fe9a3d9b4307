// Package requesttest makes requests for tests.
package requesttest

import (
	"math"
	"math/rand/v2"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// deepest is how deep a random message is nested.
const deepest = 7

// Random is a request of which any field may be set, to anything that decoding
// accepts.
func Random(r *rand.Rand) *authv3.CheckRequest {
	m := new(authv3.CheckRequest)
	fill(r, m.ProtoReflect(), 0)
	return m
}

func fill(r *rand.Rand, m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if r.IntN(3) == 0 || depth > deepest && fd.Message() != nil {
			continue
		}
		switch {
		case fd.IsMap():
			for range r.IntN(4) {
				m.Mutable(fd).Map().Set(protoreflect.ValueOfString(text(r)).MapKey(), mapValue(r, m, fd, depth))
			}
		case fd.IsList():
			list := m.Mutable(fd).List()
			for range r.IntN(4) {
				if fd.Message() != nil {
					fill(r, list.AppendMutable().Message(), depth+1)
				} else {
					list.Append(scalar(r, fd))
				}
			}
		case fd.Message() != nil:
			fill(r, m.Mutable(fd).Message(), depth+1)
		default:
			m.Set(fd, scalar(r, fd))
		}
	}
}

func mapValue(r *rand.Rand, m protoreflect.Message, fd protoreflect.FieldDescriptor, depth int) protoreflect.Value {
	if fd.MapValue().Message() == nil {
		return scalar(r, fd.MapValue())
	}
	v := m.Mutable(fd).Map().NewValue()
	fill(r, v.Message(), depth+1)
	return v
}

func scalar(r *rand.Rand, fd protoreflect.FieldDescriptor) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(text(r))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(pick(r, []byte("value"), []byte{}, []byte("\xff\x00"), []byte("eyJhIjox.eyJiIjoy.c"), []byte("é")))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(r.IntN(2) == 0)
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(pick(r, 0, 1.5, -1e21, 1e-9, 42, math.NaN(), math.Inf(1), math.Inf(-1)))
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(pick[protoreflect.EnumNumber](r, 0, 1, 7, -1))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(pick[int32](r, 0, 1, -1, math.MaxInt32, math.MinInt32))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(pick[int64](r, 0, 1, -1, math.MaxInt64, math.MinInt64))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(pick[uint32](r, 0, 1, 8443, math.MaxUint32))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(pick[uint64](r, 0, 1, math.MaxUint64))
	}
	panic("requesttest: a field of kind " + fd.Kind().String())
}

func text(r *rand.Rand) string {
	return pick(r, "", "a", "b", "x-name", "X-Upper", "authorization", "cookie", "x-token", "GET", "10.0.0.7",
		"/api/orders/17", "/api?x=1&y=2", "/api?x=1&x=2&&z", "/%61?b=%20", "//a//", "/a?b+c", "/%2f/%zz", "/%ff", "/?a=%ff", "/?a;b", "/?x=%26&b=2&x=+", "?", "é/ü?ö=ä",
		"<&>\"\\\n\t\x00\x7f\u0080\u009f\u2028\ufffd", "~/", "eyJhbGciOiJub25lIn0.e30.x")
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }
