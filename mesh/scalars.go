package mesh

import (
	"fmt"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Envoy reads YAML by the rules of YAML 1.1: 0600 is an octal number, and yes
// is true. The decoder here would read 600 and refuse; what follows makes it
// see what Envoy sees.

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
	switch n.Kind {
	case yaml.ScalarNode:
		return rewrite(n, kind)
	case yaml.SequenceNode:
		for _, e := range n.Content {
			if err := item(e, kind); err != nil {
				return err
			}
		}
	case yaml.MappingNode:
		for i := 1; i < len(n.Content); i += 2 {
			if err := item(n.Content[i], kind); err != nil {
				return err
			}
		}
	}
	return nil
}

// wrapper reports whether m is one of google/protobuf/wrappers.proto.
func wrapper(m protoreflect.MessageDescriptor) bool {
	return m.ParentFile().Path() == "google/protobuf/wrappers.proto"
}

// item rewrites one value of a list or map.
func item(n *yaml.Node, kind protoreflect.Kind) error {
	if n.Kind != yaml.ScalarNode {
		return nil
	}
	if n.ShortTag() == "!!null" {
		return fmt.Errorf("an empty item; remove it or give it a value")
	}
	return rewrite(n, kind)
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
