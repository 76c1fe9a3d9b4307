package opaplugin_test

import (
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// orders is a service whose one message has a field of each kind that has its
// own form in JSON.
const orders = `
name: "order.proto" package: "shop" syntax: "proto3"
dependency: "google/protobuf/any.proto" dependency: "google/protobuf/timestamp.proto"
message_type {
  name: "Order"
  field { name: "item_id" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
  field { name: "count" number: 2 label: LABEL_OPTIONAL type: TYPE_INT64 }
  field { name: "part" number: 3 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".shop.Order" }
  field { name: "notes" number: 4 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".google.protobuf.Any" }
  field { name: "state" number: 5 label: LABEL_OPTIONAL type: TYPE_ENUM type_name: ".shop.State" }
  field { name: "photo" number: 6 label: LABEL_OPTIONAL type: TYPE_BYTES }
  field { name: "labels" number: 7 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".shop.Order.LabelsEntry" }
  field { name: "price" number: 8 label: LABEL_OPTIONAL type: TYPE_DOUBLE }
  field { name: "placed_at" number: 9 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".google.protobuf.Timestamp" }
  nested_type {
    name: "LabelsEntry" options { map_entry: true }
    field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
    field { name: "value" number: 2 label: LABEL_OPTIONAL type: TYPE_STRING }
  }
}
enum_type { name: "State" value { name: "UNKNOWN" number: 0 } value { name: "OPEN" number: 1 } value { name: "SENT" number: 2 } }
service {
  name: "Orders"
  method { name: "Put" input_type: ".shop.Order" output_type: ".shop.Order" }
  method { name: "PutAll" input_type: ".shop.Order" output_type: ".shop.Order" client_streaming: true }
}`

// descriptorSet is the bytes of a file as `protoc --include_imports` writes it.
func descriptorSet(t testing.TB) []byte {
	t.Helper()
	var file descriptorpb.FileDescriptorProto
	if err := prototext.Unmarshal([]byte(orders), &file); err != nil {
		t.Fatal(err)
	}
	data, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{
		protodesc.ToFileDescriptorProto(anypb.File_google_protobuf_any_proto),
		protodesc.ToFileDescriptorProto(timestamppb.File_google_protobuf_timestamp_proto),
		&file,
	}})
	if err != nil {
		t.Fatal(err)
	}
	return data
}
