package importer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Bounds of what is read.
const (
	MaxSource = 4 << 20 // bytes of the file
	maxNodes  = 200_000 // values, after aliases are written out
	maxDepth  = 100     // collections inside each other
)

// read reads one document of YAML or JSON. An alias is written out, since a
// mesh repository has none; what is not YAML to Envoy is refused.
func read(file string, data []byte) (*yaml.Node, error) {
	switch {
	case len(data) > MaxSource:
		return nil, fmt.Errorf("%s: the file has %d bytes; at most %d are read", file, len(data), MaxSource)
	case !utf8.Valid(data):
		return nil, fmt.Errorf("%s: the file is not UTF-8 text", file)
	case bytes.IndexByte(data, 0) >= 0:
		return nil, fmt.Errorf("%s: the file has a NUL character", file)
	}
	isJSON := json.Valid(data)
	if isJSON { // a tab is white space in JSON, and never inside a text
		data = bytes.ReplaceAll(data, []byte("\t"), []byte(" "))
	}
	text := strings.ReplaceAll(string(data), "\r\n", "\n")
	if i := strings.IndexAny(text, "\r\u0085\u2028\u2029"); i >= 0 {
		return nil, fmt.Errorf("%s:%d: a line break that is neither LF nor CRLF", file, 1+strings.Count(text[:i], "\n"))
	}
	doc, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	r := &expander{file: file}
	root, err := r.expand(doc, 0)
	if isJSON && err == nil { // it is written as YAML that people read
		each(root, func(n *yaml.Node) { n.Style = 0 })
	}
	return root, err
}

// parse reads one YAML document. No fault of the parser may end a program that
// reads what others have written.
func parse(text string) (root *yaml.Node, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the file cannot be read: %v", r)
		}
	}()
	dec := yaml.NewDecoder(strings.NewReader(text))
	var doc, next yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, errors.New("the file is empty")
	} else if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := dec.Decode(&next); !errors.Is(err, io.EOF) {
		return nil, errors.New("a second YAML document; Envoy reads a file of one")
	}
	return doc.Content[0], nil
}

// expander copies a tree without its aliases, within the bounds.
type expander struct {
	file  string
	nodes int
	open  []*yaml.Node // the aliased nodes that are being copied
}

func (r *expander) fail(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %s", r.file, n.Line, fmt.Sprintf(format, args...))
}

func (r *expander) expand(n *yaml.Node, depth int) (*yaml.Node, error) {
	r.nodes++
	switch {
	case r.nodes > maxNodes:
		return nil, r.fail(n, "more than %d values, aliases written out", maxNodes)
	case depth > maxDepth:
		return nil, r.fail(n, "nested deeper than %d levels", maxDepth)
	case n.Kind == yaml.AliasNode:
		for _, o := range r.open {
			if o == n.Alias {
				return nil, r.fail(n, "the alias %q stands inside what it stands for", n.Value)
			}
		}
		r.open = append(r.open, n.Alias)
		out, err := r.expand(n.Alias, depth)
		r.open = r.open[:len(r.open)-1]
		return out, err
	case n.ShortTag() == "!!merge":
		return nil, r.fail(n, "a merge key (<<), which Envoy does not read; write the fields out")
	case n.Style&yaml.TaggedStyle != 0 || !plainTags[n.ShortTag()]:
		return nil, r.fail(n, "the tag %q; write the value without it", n.Tag)
	}
	out := *n
	out.Anchor, out.Content = "", nil
	keys := map[string]int{}
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 {
			if c.Kind != yaml.ScalarNode {
				return nil, r.fail(c, "a key that is no plain text")
			}
			if line, ok := keys[c.Value]; ok {
				return nil, r.fail(c, "the key %q stands twice, in line %d too", c.Value, line)
			}
			keys[c.Value] = c.Line
		}
		e, err := r.expand(c, depth+1)
		if err != nil {
			return nil, err
		}
		out.Content = append(out.Content, e)
	}
	return &out, nil
}

var plainTags = map[string]bool{
	"!!str": true, "!!int": true, "!!float": true, "!!bool": true, "!!null": true,
	"!!map": true, "!!seq": true, "!!timestamp": true,
}
