package mesh

import (
	"fmt"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Envoy reads YAML by the rules of YAML 1.1: 0600 is an octal number, and yes
// is true. It reads the name of an enum value whatever its case. The decoder
// here would read 600 and refuse; what follows makes it see what Envoy sees.

var (
	octal   = regexp.MustCompile(`^[-+]?0[0-9]+$`)
	numbers = map[protoreflect.Kind]bool{
		protoreflect.Int32Kind: true, protoreflect.Int64Kind: true, protoreflect.Uint32Kind: true, protoreflect.Uint64Kind: true,
		protoreflect.Sint32Kind: true, protoreflect.Sint64Kind: true, protoreflect.Fixed32Kind: true, protoreflect.Fixed64Kind: true,
		protoreflect.Sfixed32Kind: true, protoreflect.Sfixed64Kind: true,
	}
	truths = map[string]string{
		"y": "true", "yes": "true", "on": "true", "true": "true", "n": "false", "no": "false", "off": "false", "false": "false",
	}
)

// asEnvoyReads rewrites the value n of the field f.
func asEnvoyReads(n *yaml.Node, f protoreflect.FieldDescriptor) error {
	if f.IsMap() {
		f = f.MapValue()
	}
	kind := f.Kind()
	if m := f.Message(); m != nil {
		if !wrapper(m) {
			return nil
		}
		kind = m.Fields().ByNumber(1).Kind()
	}
	for _, v := range values(n) {
		if v.Kind != yaml.ScalarNode {
			continue
		}
		if v != n && v.ShortTag() == "!!null" {
			return fmt.Errorf("an empty item; remove it or give it a value")
		}
		if e := f.Enum(); e != nil {
			asEnumValue(v, e)
			continue
		}
		if err := rewrite(v, kind); err != nil {
			return err
		}
	}
	return nil
}

// wrapper reports whether m is one of google/protobuf/wrappers.proto.
func wrapper(m protoreflect.MessageDescriptor) bool {
	return m.ParentFile().Path() == "google/protobuf/wrappers.proto"
}

// values are the scalars of a field: n itself, or the items of a list or map.
func values(n *yaml.Node) []*yaml.Node {
	switch n.Kind {
	case yaml.SequenceNode:
		return n.Content
	case yaml.MappingNode:
		var out []*yaml.Node
		for i := 1; i < len(n.Content); i += 2 {
			out = append(out, n.Content[i])
		}
		return out
	}
	return []*yaml.Node{n}
}

// asEnumValue rewrites the name of an enum value that stands in another case.
func asEnumValue(n *yaml.Node, e protoreflect.EnumDescriptor) {
	if e.Values().ByName(protoreflect.Name(n.Value)) != nil {
		return
	}
	if v := e.Values().ByName(protoreflect.Name(strings.ToUpper(n.Value))); v != nil {
		n.Value = string(v.Name())
	}
}

func rewrite(n *yaml.Node, kind protoreflect.Kind) error {
	if n.Style != 0 {
		return nil // quoted
	}
	if kind == protoreflect.BoolKind {
		if v, ok := truths[strings.ToLower(n.Value)]; ok {
			n.Value, n.Tag = v, "!!bool"
		}
	}
	if !numbers[kind] || !octal.MatchString(n.Value) {
		return nil
	}
	digits := strings.TrimLeft(n.Value, "+-0")
	if strings.ContainsAny(digits, "89") {
		return fmt.Errorf("%s is neither an octal nor a decimal number; write it without zeros in front", n.Value)
	}
	sign := ""
	if n.Value[0] == '-' {
		sign = "-"
	}
	n.Value = sign + "0o0" + digits
	return nil
}

// checkFree refuses, in a value without a schema, a number that Envoy reads
// as octal.
func checkFree(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode && n.Style == 0 && octal.MatchString(n.Value) {
		return fmt.Errorf("the number %s begins with a zero; quote it, or write it without", n.Value)
	}
	for _, e := range n.Content {
		if err := checkFree(e); err != nil {
			return err
		}
	}
	return nil
}
