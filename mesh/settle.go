package mesh

import (
	"cmp"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"meshseal/snapshot"
)

// resources are all resources of the proxy, in a fixed order.
func (p *proxyConfig) resources() []proto.Message {
	var all []proto.Message
	for _, m := range p.clusters {
		all = append(all, m)
	}
	for _, m := range p.endpoints {
		all = append(all, m)
	}
	for _, m := range p.listeners {
		all = append(all, m)
	}
	for _, m := range p.routes {
		all = append(all, m)
	}
	return all
}

// settle walks every message of the proxy's resources, those inside an Any
// too, and calls visit for each, the inner ones first. Each Any is decoded,
// checked and encoded again deterministically, so that equal content has equal
// bytes.
func (p *proxyConfig) settle(visit func(proto.Message) error) error {
	for _, m := range p.resources() {
		if err := obey(m); err != nil {
			return p.fail(m, "%w", err)
		}
		if err := p.walk(m.ProtoReflect(), nil, visit); err != nil {
			return err
		}
	}
	return nil
}

func (p *proxyConfig) walk(m protoreflect.Message, in protoreflect.FieldDescriptor, visit func(proto.Message) error) error {
	if len(m.GetUnknown()) > 0 {
		return p.fail(m.Interface(), "%s has fields that this release does not know", m.Descriptor().FullName())
	}
	if a, ok := m.Interface().(*anypb.Any); ok {
		return p.walkAny(a, in, visit)
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.Message() == nil || !m.Has(f) {
			continue
		}
		if err := p.walkField(m.Get(f), f, visit); err != nil {
			return err
		}
	}
	return visit(m.Interface())
}

func (p *proxyConfig) walkField(v protoreflect.Value, f protoreflect.FieldDescriptor, visit func(proto.Message) error) error {
	switch {
	case f.IsList():
		for i := range v.List().Len() {
			if err := p.walk(v.List().Get(i).Message(), f, visit); err != nil {
				return err
			}
		}
		return nil
	case f.IsMap():
		if f.MapValue().Message() == nil {
			return nil
		}
		for _, k := range sortedMapKeys(v.Map()) {
			if err := p.walk(v.Map().Get(k).Message(), f, visit); err != nil {
				return err
			}
		}
		return nil
	}
	return p.walk(v.Message(), f, visit)
}

func sortedMapKeys(m protoreflect.Map) []protoreflect.MapKey {
	keys := make([]protoreflect.MapKey, 0, m.Len())
	m.Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
		keys = append(keys, k)
		return true
	})
	slices.SortFunc(keys, func(a, b protoreflect.MapKey) int { return cmp.Compare(a.String(), b.String()) })
	return keys
}

func (p *proxyConfig) walkAny(a *anypb.Any, in protoreflect.FieldDescriptor, visit func(proto.Message) error) error {
	inner, err := p.unpack(a)
	if err != nil {
		return err
	}
	// A Struct is data in metadata; as the configuration of an extension it
	// would hide one that no rule here has seen.
	if _, ok := inner.(*structpb.Struct); ok && (in == nil || in.FullName() != typedMetadata) {
		return p.fail(a, "%q hides the configuration's own type; write that type and its fields", a.GetTypeUrl())
	}
	if err := obey(inner); err != nil {
		return p.fail(a, "%w", err)
	}
	if err := p.walk(inner.ProtoReflect(), nil, visit); err != nil {
		return err
	}
	return p.repack(a, inner)
}

const typedMetadata = "envoy.config.core.v3.Metadata.typed_filter_metadata"

// refuseMarks refuses metadata in the namespace of the marks: only the build
// writes there.
func (p *proxyConfig) refuseMarks(m proto.Message) error {
	md, ok := m.(*corev3.Metadata)
	if !ok {
		return nil
	}
	_, plain := md.GetFilterMetadata()[snapshot.MetadataNamespace]
	_, typed := md.GetTypedFilterMetadata()[snapshot.MetadataNamespace]
	if plain || typed {
		return p.fail(m, "metadata: the namespace %q belongs to the build, which writes the mark there; remove it", snapshot.MetadataNamespace)
	}
	return nil
}
