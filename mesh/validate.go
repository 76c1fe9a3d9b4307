package mesh

import (
	"fmt"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// validator is what protoc-gen-validate writes for a message.
type validator interface{ Validate() error }

// violation is the error that it returns.
type violation interface {
	error
	Field() string // the Go field, with an index or key in brackets
	Reason() string
	Cause() error // set where the message inside the field is the one to blame
}

// validate runs the rules of Envoy's protos on every message that was seen,
// those inside an Any too, and reports the first by its own place.
func (v *visitor) validate() error {
	var first error
	for _, e := range v.seen {
		m, ok := e.message.(validator)
		if !ok {
			continue
		}
		err := m.Validate()
		if err == nil {
			continue
		}
		if cause, ok := err.(violation); ok && cause.Cause() == nil {
			return v.source.violated(e, cause)
		}
		if first == nil {
			first = v.source.fail(e.node, "%v", err)
		}
	}
	return first
}

var indexed = regexp.MustCompile(`\[.*$`)

// violated reports a rule that a field of a message breaks: at the field, or
// at the message where the field is missing.
func (s *source) violated(e visited, cause violation) error {
	d := e.message.ProtoReflect().Descriptor()
	name := protoField(d, indexed.ReplaceAllString(cause.Field(), ""))
	for i := 0; i+1 < len(e.node.Content) && e.node.Kind == yaml.MappingNode; i += 2 {
		key := e.node.Content[i]
		if f := d.Fields().ByName(protoreflect.Name(name)); f != nil && (key.Value == f.TextName() || key.Value == f.JSONName()) {
			return s.fail(e.node.Content[i+1], "%s", cause.Reason())
		}
	}
	return s.fail(e.node, "%s of %s: %s", name, d.Name(), cause.Reason())
}

// protoField finds the field or oneof that a Go name stands for.
func protoField(d protoreflect.MessageDescriptor, goName string) string {
	same := func(name protoreflect.Name) bool {
		return strings.EqualFold(strings.ReplaceAll(string(name), "_", ""), strings.ReplaceAll(goName, "_", ""))
	}
	for i := range d.Fields().Len() {
		if f := d.Fields().Get(i); same(f.Name()) {
			return string(f.Name())
		}
	}
	for i := range d.Oneofs().Len() {
		if o := d.Oneofs().Get(i); same(o.Name()) {
			return string(o.Name())
		}
	}
	return goName
}

// checkType accepts the full name of a message that this release knows.
func checkType(name string) error {
	if _, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(name)); err != nil {
		return fmt.Errorf("\"@type\": %s%s is not a type that Envoy's API has in this release", anyPrefix, name)
	}
	return nil
}

// obey runs the rules of Envoy's protos on m and all plain messages in it.
func obey(m proto.Message) error {
	if v, ok := m.(validator); ok {
		return v.Validate()
	}
	return nil
}
