package importer

import (
	"fmt"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// child is the value of a key of the mapping n; nil if there is none.
func child(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// at is the value at the end of a path of keys; nil if it is not there.
func at(n *yaml.Node, path ...string) *yaml.Node {
	for _, key := range path {
		n = child(n, key)
	}
	return n
}

// text is the scalar at the end of a path of keys; empty if there is none.
func text(n *yaml.Node, path ...string) string {
	if n = at(n, path...); n != nil && n.Kind == yaml.ScalarNode {
		return n.Value
	}
	return ""
}

// items are the elements of a list, or nothing.
func items(n *yaml.Node) []*yaml.Node {
	if n == nil || n.Kind != yaml.SequenceNode {
		return nil
	}
	return n.Content
}

// truth says whether the scalar is true as Envoy reads YAML.
func truth(s string) bool {
	switch s {
	case "true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON", "y", "Y":
		return true
	}
	return false
}

// put sets a key of the mapping n, in place or at its end.
func put(n *yaml.Node, key string, value *yaml.Node) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			n.Content[i+1] = value
			return
		}
	}
	n.Content = append(n.Content, scalar(key), value)
}

// putFirst sets a key at the beginning of the mapping n.
func putFirst(n *yaml.Node, key string, value *yaml.Node) {
	drop(n, key)
	n.Content = append([]*yaml.Node{scalar(key), value}, n.Content...)
}

// drop removes keys of the mapping n and reports those that were there.
func drop(n *yaml.Node, keys ...string) (dropped []string) {
	for _, key := range keys {
		for i := 0; n != nil && i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == key {
				n.Content = append(n.Content[:i:i], n.Content[i+2:]...)
				dropped = append(dropped, key)
				break
			}
		}
	}
	return dropped
}

func scalar(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	return n
}

// fragment is YAML written here, with values of others only by quote.
func fragment(format string, args ...any) *yaml.Node {
	var doc yaml.Node
	if err := yaml.Unmarshal(fmt.Appendf(nil, format, args...), &doc); err != nil {
		panic(fmt.Sprintf("importer: fragment %q: %v", format, err))
	}
	unplace(doc.Content[0])
	return doc.Content[0]
}

// unplace takes the lines out: a fragment stands in no source.
func unplace(n *yaml.Node) {
	n.Line, n.Column = 0, 0
	for _, c := range n.Content {
		unplace(c)
	}
}

// quote writes any text as a YAML value.
func quote(s string) string { return strconv.Quote(s) }

// clone is a deep copy of n.
func clone(n *yaml.Node) *yaml.Node {
	if n == nil {
		return nil
	}
	out := *n
	out.Content = make([]*yaml.Node, len(n.Content))
	for i, c := range n.Content {
		out.Content[i] = clone(c)
	}
	return &out
}

// each calls visit for n and every node below it, keys of mappings included.
func each(n *yaml.Node, visit func(*yaml.Node)) {
	if n == nil {
		return
	}
	visit(n)
	for _, c := range n.Content {
		each(c, visit)
	}
}
