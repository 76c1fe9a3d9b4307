package importer

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "meshseal/mesh/internal/envoytypes"
)

// message is one message of Envoy's API as it stands in the source.
type message struct {
	node   *yaml.Node // a mapping with the names of the .proto file as keys
	name   string     // full name, that of the content for an Any
	field  string     // the field, or the key of a map, that it stands in
	parent *message   // nil for a resource
}

// walker finds the messages in a tree by Envoy's own types. It gives fields
// the names of the .proto file, drops those that are null, as Envoy does, and
// refuses what Envoy would refuse or what hides a configuration.
type walker struct {
	file     string
	problems []error
	found    []*message
	private  []*yaml.Node // data sources that hold a private key
}

const (
	anyName   = "google.protobuf.Any"
	typeURL   = "@type"
	anyPrefix = "type.googleapis.com/"
	// maxProblems are enough to mend a file in one go.
	maxProblems = 20
)

// walk reads n as the message named name.
func (w *walker) walk(n *yaml.Node, name string) {
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		w.problem(n, "%s is not a type of Envoy's v3 API", name)
		return
	}
	w.message(n, d.(protoreflect.MessageDescriptor), "", nil)
}

func (w *walker) problem(n *yaml.Node, format string, args ...any) {
	w.problems = append(w.problems, fmt.Errorf("%s:%d: %s", w.file, n.Line, fmt.Sprintf(format, args...)))
}

// err is what was found wrong, together.
func (w *walker) err() error {
	if len(w.problems) > maxProblems {
		more := len(w.problems) - maxProblems
		return errors.Join(append(w.problems[:maxProblems:maxProblems], fmt.Errorf("and %d more", more))...)
	}
	return errors.Join(w.problems...)
}

// free are messages whose keys are data.
var free = map[protoreflect.FullName]bool{
	"google.protobuf.Struct": true, "google.protobuf.Value": true, "google.protobuf.ListValue": true,
}

// typed are the messages that carry a configuration by the name of its type.
var typedStructs = []string{"xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct"}

func (w *walker) message(n *yaml.Node, d protoreflect.MessageDescriptor, field string, parent *message) {
	if free[d.FullName()] || n.Kind == yaml.ScalarNode && n.ShortTag() != "!!null" && scalarForm(d) {
		return
	}
	if n.Kind != yaml.MappingNode {
		w.problem(n, "%s has to be a mapping of fields of %s", orRoot(field), d.FullName())
		return
	}
	if d.FullName() == anyName {
		if d = w.content(n); d == nil {
			return
		}
	}
	m := &message{node: n, name: string(d.FullName()), field: field, parent: parent}
	w.found = append(w.found, m)
	w.fields(m, d)
	w.look(m)
}

func orRoot(field string) string {
	if field == "" {
		return "the file"
	}
	return fmt.Sprintf("%q", field)
}

// scalarForm: the message is written as a plain value.
func scalarForm(d protoreflect.MessageDescriptor) bool {
	switch d.FullName() {
	case "google.protobuf.Duration", "google.protobuf.Timestamp", "google.protobuf.FieldMask":
		return true
	}
	return d.ParentFile().Path() == "google/protobuf/wrappers.proto"
}

// content is the type of what an Any holds; nil where that is a problem.
func (w *walker) content(n *yaml.Node) protoreflect.MessageDescriptor {
	w.unwrap(n)
	url := text(n, typeURL)
	name := url[strings.LastIndex(url, "/")+1:]
	switch {
	case url == "":
		w.problem(n, "an extension without \"@type\"; Envoy's v3 API takes typed_config with one")
		return nil
	case old(name):
		w.problem(n, "%q is of Envoy's v2 API, which Envoy 1.40 does not read; write it in v3 first", url)
		return nil
	}
	d, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(name))
	if err != nil {
		w.problem(n, "%q is not a type that Envoy's v3 API has in this release", url)
		return nil
	}
	put(n, typeURL, relined(scalar(anyPrefix+name), child(n, typeURL)))
	return d.Descriptor()
}

func relined(n, like *yaml.Node) *yaml.Node {
	n.Line, n.Column, n.LineComment = like.Line, like.Column, like.LineComment
	return n
}

// old: a type of the v2 API.
func old(name string) bool {
	return strings.HasPrefix(name, "envoy.api.v2") || strings.HasPrefix(name, "envoy.config.filter.") || strings.Contains(name, ".v2.") ||
		strings.HasSuffix(name, "v2alpha")
}

// unwrap writes a TypedStruct out in the type that it stands for.
func (w *walker) unwrap(n *yaml.Node) {
	for range maxDepth {
		url := text(n, typeURL)
		if !slices.Contains(typedStructs, url[strings.LastIndex(url, "/")+1:]) {
			return
		}
		inner, value := text(n, "type_url"), child(n, "value")
		if inner == "" {
			inner = text(n, "typeUrl")
		}
		content := []*yaml.Node{scalar(typeURL), relined(scalar(inner), n)}
		if value != nil && value.Kind == yaml.MappingNode {
			content = append(content, value.Content...)
		}
		n.Content = content
	}
}

// fields reads the fields of a message by their names.
func (w *walker) fields(m *message, d protoreflect.MessageDescriptor) {
	kept := m.node.Content[:0:0]
	seen := map[string]bool{}
	for i := 0; i+1 < len(m.node.Content); i += 2 {
		key, value := m.node.Content[i], m.node.Content[i+1]
		if key.Value == typeURL {
			kept = append(kept, key, value)
			continue
		}
		f := d.Fields().ByTextName(key.Value)
		if f == nil {
			f = d.Fields().ByJSONName(key.Value)
		}
		switch {
		case f == nil:
			w.problem(key, "%s has no field %q in Envoy's v3 API%s", d.FullName(), key.Value, hint(key.Value))
			continue
		case seen[f.TextName()]:
			w.problem(key, "the field %q stands twice", f.TextName())
			continue
		case value.ShortTag() == "!!null" && (f.Message() == nil || f.Message().FullName() != "google.protobuf.Value"):
			continue
		}
		key.Value, seen[f.TextName()] = f.TextName(), true
		kept = append(kept, key, value)
		w.value(m, f, value)
	}
	m.node.Content = kept
}

// hint is what to do about a field that v2 had.
func hint(field string) string {
	switch field {
	case "config", "hosts", "tls_context", "cluster_names":
		return "; v2 had it: write it in v3 first"
	}
	return ""
}

func (w *walker) value(m *message, f protoreflect.FieldDescriptor, n *yaml.Node) {
	switch {
	case f.IsMap():
		if n.Kind != yaml.MappingNode {
			w.problem(n, "%q has to be a mapping", f.TextName())
			return
		}
		for i := 1; i < len(n.Content) && f.MapValue().Message() != nil; i += 2 {
			w.message(n.Content[i], f.MapValue().Message(), n.Content[i-1].Value, m)
		}
	case f.IsList():
		if n.Kind != yaml.SequenceNode {
			w.problem(n, "%q has to be a list", f.TextName())
			return
		}
		for _, e := range n.Content {
			if f.Message() != nil {
				w.message(e, f.Message(), f.TextName(), m)
			}
		}
	case f.Message() != nil:
		w.message(n, f.Message(), f.TextName(), m)
	case n.Kind != yaml.ScalarNode:
		w.problem(n, "%q has to be a plain value", f.TextName())
	}
}

// look keeps data sources that hold a private key.
func (w *walker) look(m *message) {
	if m.name != "envoy.config.core.v3.DataSource" {
		return
	}
	data, _ := base64.StdEncoding.DecodeString(text(m.node, "inline_bytes"))
	if holdsKey(string(data)) || holdsKey(text(m.node, "inline_string")) {
		w.private = append(w.private, m.node)
	}
}

// holdsKey: the text is, or has in it, a private key in PEM form.
func holdsKey(s string) bool { return strings.Contains(s, "PRIVATE KEY-----") }
