package guardtest

import (
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"
	_ "google.golang.org/protobuf/types/known/structpb"
	"pgregory.net/rapid"

	"meshseal/snapshot"
)

// payloads are the types that a generated Any holds.
var payloads = []protoreflect.FullName{
	"envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
	"envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
	"envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
	"envoy.extensions.filters.http.router.v3.Router",
	"envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
	"envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
	"envoy.extensions.access_loggers.file.v3.FileAccessLog",
	"envoy.config.core.v3.Metadata",
	"google.protobuf.Struct",
	"google.protobuf.BytesValue",
}

// Fill sets fields of m to generated values, at random and at any depth: maps
// with several entries, lists, one of each oneof, wrappers and scalars at their
// default though it is set, an Any with an Any in it, and fields that nobody
// knows. What m holds already stays where nothing is generated over it.
func Fill(t *rapid.T, m proto.Message) { fill(t, m.ProtoReflect(), 5) }

func fill(t *rapid.T, m protoreflect.Message, depth int) {
	if a, ok := m.Interface().(*anypb.Any); ok {
		fillAny(t, a, depth)
		return
	}
	fields := m.Descriptor().Fields()
	for range rapid.IntRange(0, min(4, fields.Len())).Draw(t, "fields") {
		f := fields.Get(rapid.IntRange(0, fields.Len()-1).Draw(t, "field"))
		if depth == 0 && f.Message() != nil {
			continue
		}
		fillField(t, m, f, depth-1)
	}
	if rapid.IntRange(0, 9).Draw(t, "unknown") == 0 {
		number := protowire.Number(rapid.IntRange(200_000, 500_000).Draw(t, "number"))
		b := protowire.AppendTag(nil, number, protowire.BytesType)
		m.SetUnknown(protowire.AppendBytes(b, rapid.SliceOfN(rapid.Byte(), 0, 8).Draw(t, "bytes")))
	}
}

func fillField(t *rapid.T, m protoreflect.Message, f protoreflect.FieldDescriptor, depth int) {
	switch {
	case f.IsMap():
		entries := m.Mutable(f).Map()
		for range rapid.IntRange(0, 5).Draw(t, "entries") {
			key := scalar(t, f.MapKey()).MapKey()
			if f.MapValue().Message() == nil {
				entries.Set(key, scalar(t, f.MapValue()))
				continue
			}
			v := entries.NewValue()
			fill(t, v.Message(), depth)
			entries.Set(key, v)
		}
	case f.IsList():
		list := m.Mutable(f).List()
		for range rapid.IntRange(0, 3).Draw(t, "items") {
			if f.Message() == nil {
				list.Append(scalar(t, f))
				continue
			}
			fill(t, list.AppendMutable().Message(), depth)
		}
	case f.Message() != nil:
		fill(t, m.Mutable(f).Message(), depth)
	default:
		m.Set(f, scalar(t, f))
	}
}

// fillAny packs a generated message in its canonical bytes, as a build does.
func fillAny(t *rapid.T, a *anypb.Any, depth int) {
	if depth <= 0 {
		return
	}
	name := rapid.SampledFrom(payloads).Draw(t, "payload")
	kind, err := protoregistry.GlobalTypes.FindMessageByName(name)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	inner := kind.New()
	fill(t, inner, depth-1)
	data, err := snapshot.Canonical(inner.Interface())
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	a.TypeUrl, a.Value = "type.googleapis.com/"+string(name), data
}

// scalar is a value of a field that holds no message; often the default.
func scalar(t *rapid.T, f protoreflect.FieldDescriptor) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(rapid.Bool().Draw(t, "bool"))
	case protoreflect.EnumKind:
		values := f.Enum().Values()
		return protoreflect.ValueOfEnum(values.Get(rapid.IntRange(0, values.Len()-1).Draw(t, "enum")).Number())
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(rapid.Int32().Draw(t, "int32"))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(rapid.Int64().Draw(t, "int64"))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(rapid.Uint32().Draw(t, "uint32"))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(rapid.Uint64().Draw(t, "uint64"))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(rapid.Float32().Draw(t, "float"))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(rapid.Float64().Draw(t, "double"))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(rapid.SliceOfN(rapid.Byte(), 0, 6).Draw(t, "bytes"))
	}
	return protoreflect.ValueOfString(rapid.StringOfN(rapid.Rune(), 0, 8, -1).Draw(t, "string"))
}

// SetName gives a resource its name.
func SetName(m proto.Message, name string) {
	fields := m.ProtoReflect().Descriptor().Fields()
	f := fields.ByName("name")
	if f == nil {
		f = fields.ByName("cluster_name")
	}
	m.ProtoReflect().Set(f, protoreflect.ValueOfString(name))
}
