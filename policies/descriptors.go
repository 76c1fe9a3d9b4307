package policies

import (
	"errors"
	"fmt"
	"path"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// descriptorSuffix ends the names of files that hold a FileDescriptorSet
// (google/protobuf/descriptor.proto), as `protoc --include_imports
// --descriptor_set_out` and `buf build -o` write it. They are what
// opa-envoy-plugin's proto-descriptor names.
const descriptorSuffix = ".pb"

// descriptors are the gRPC services whose requests a policy can read. The nil
// value has none.
type descriptors struct {
	files *protoregistry.Files
	types *dynamicpb.Types
}

// descriptorSet collects the files of all sets before they are linked.
type descriptorSet struct {
	files map[string]*descriptorpb.FileDescriptorProto // by their name in the set
	from  map[string]string                            // that name to the policy file
	order []string
}

// add reads one policy file. A file that stands in two sets, as a common
// import does, has to be the same in both.
func (s *descriptorSet) add(f File) error {
	var set descriptorpb.FileDescriptorSet
	if err := (proto.UnmarshalOptions{Resolver: &noTypes, RecursionLimit: maxDepth}).Unmarshal(f.Data, &set); err != nil {
		return fmt.Errorf("%s: not a FileDescriptorSet: %w", f.Path, err)
	}
	if len(set.GetFile()) == 0 {
		return fmt.Errorf("%s: the FileDescriptorSet is empty; `protoc --include_imports --descriptor_set_out=%s` writes one", f.Path, path.Base(f.Path))
	}
	if s.files == nil {
		s.files, s.from = map[string]*descriptorpb.FileDescriptorProto{}, map[string]string{}
	}
	for _, d := range set.GetFile() {
		if other, ok := s.files[d.GetName()]; ok {
			if !proto.Equal(other, d) {
				return fmt.Errorf("%s: %q is another file than in %s", f.Path, clip(d.GetName()), s.from[d.GetName()])
			}
			continue
		}
		s.files[d.GetName()], s.from[d.GetName()] = d, f.Path
		s.order = append(s.order, d.GetName())
	}
	return nil
}

// link makes the descriptors; nil if there are no files.
func (s *descriptorSet) link() (*descriptors, error) {
	if len(s.order) == 0 {
		return nil, nil
	}
	set := &descriptorpb.FileDescriptorSet{}
	for _, name := range s.order {
		set.File = append(set.File, s.files[name])
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		return nil, fmt.Errorf("%s: the files do not fit together: %w; write the set with its imports (protoc --include_imports)", s.from[s.order[0]], err)
	}
	return &descriptors{files: files, types: dynamicpb.NewTypes(files)}, nil
}

// method finds a method that is called with one message; nil if the sets have
// none of that name.
func (d *descriptors) method(service, name string) protoreflect.MethodDescriptor {
	found, err := d.files.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return nil
	}
	s, ok := found.(protoreflect.ServiceDescriptor)
	if !ok {
		return nil
	}
	m := s.Methods().ByName(protoreflect.Name(name))
	if m == nil || m.IsStreamingClient() {
		return nil
	}
	return m
}

// noTypes resolves nothing: extensions stay unknown fields.
var noTypes protoregistry.Types

// wellKnown are the messages that have a JSON form of their own.
var wellKnown = func() *protoregistry.Types {
	types := new(protoregistry.Types)
	for _, m := range []proto.Message{
		&anypb.Any{}, &durationpb.Duration{}, &emptypb.Empty{}, &fieldmaskpb.FieldMask{}, &timestamppb.Timestamp{},
		&structpb.Struct{}, &structpb.Value{}, &structpb.ListValue{},
		&wrapperspb.BoolValue{}, &wrapperspb.BytesValue{}, &wrapperspb.DoubleValue{}, &wrapperspb.FloatValue{},
		&wrapperspb.Int32Value{}, &wrapperspb.Int64Value{}, &wrapperspb.StringValue{}, &wrapperspb.UInt32Value{}, &wrapperspb.UInt64Value{},
	} {
		if err := types.RegisterMessage(m.ProtoReflect().Type()); err != nil {
			panic(err) // the list above names a type twice
		}
	}
	return types
}()

// maxAnys is how many Any values one message may hold. Each is decoded anew
// with all that is in it, so that nested ones would cost the square.
const maxAnys = 200

// anyTypes resolves what the Any values of one message hold: a well-known type
// or one of the sets. Whatever else is linked into this program is not asked,
// so that the same snapshot reads the same request alike in every build.
type anyTypes struct {
	own  *dynamicpb.Types
	seen int
}

// FindMessageByURL is what protojson asks for each Any.
func (t *anyTypes) FindMessageByURL(url string) (protoreflect.MessageType, error) {
	if t.seen++; t.seen > maxAnys {
		return nil, fmt.Errorf("more than %d values of type google.protobuf.Any", maxAnys)
	}
	m, err := wellKnown.FindMessageByURL(url)
	if errors.Is(err, protoregistry.NotFound) {
		return t.own.FindMessageByURL(url)
	}
	return m, err
}

// FindMessageByName finds nothing: an Any names its type by a URL.
func (*anyTypes) FindMessageByName(protoreflect.FullName) (protoreflect.MessageType, error) {
	return nil, protoregistry.NotFound
}

// FindExtensionByName finds nothing: extensions stay unknown fields.
func (*anyTypes) FindExtensionByName(protoreflect.FullName) (protoreflect.ExtensionType, error) {
	return nil, protoregistry.NotFound
}

// FindExtensionByNumber finds nothing, as FindExtensionByName.
func (*anyTypes) FindExtensionByNumber(protoreflect.FullName, protoreflect.FieldNumber) (protoreflect.ExtensionType, error) {
	return nil, protoregistry.NotFound
}
