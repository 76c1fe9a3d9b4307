package mesh

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"meshseal/policies"
)

// Bounds of a YAML file of the mesh repository.
const (
	maxYAML  = 4 << 20 // bytes
	maxDepth = 100     // collections inside each other
)

// source is one YAML (or JSON) file, read into nodes that know their place.
type source struct {
	file  string
	lines []string
	root  *yaml.Node // nil for an empty file
	// fields names each key and value by its path: "listeners.web-inbound".
	fields map[*yaml.Node]string
	places map[[2]int]string
	// keys has where each path stands first: the key of a field, or an element.
	keys map[string]position
}

// readYAML reads one document of plain YAML: no anchors, aliases, merge keys,
// tags of its own or duplicate keys, so that what a reviewer sees in the file
// is what it says.
func readYAML(file string, data []byte) (*source, error) {
	s := &source{file: file, fields: map[*yaml.Node]string{}, places: map[[2]int]string{}, keys: map[string]position{}}
	if len(data) > maxYAML {
		return nil, fmt.Errorf("%s: the file has %d bytes; at most %d are read: split it", file, len(data), maxYAML)
	}
	if !utf8.Valid(data) {
		return nil, fmt.Errorf("%s: the file is not UTF-8 text", file)
	}
	if i := bytes.IndexByte(data, 0); i >= 0 {
		return nil, fmt.Errorf("%s: the file has a NUL character at byte %d", file, i)
	}
	text := strings.ReplaceAll(string(data), "\r\n", "\n")
	if i := strings.IndexAny(text, "\r\u0085\u2028\u2029"); i >= 0 {
		return nil, fmt.Errorf("%s:%d: a line break that is neither LF nor CRLF", file, 1+strings.Count(text[:i], "\n"))
	}
	s.lines = strings.Split(text, "\n")
	dec := yaml.NewDecoder(strings.NewReader(text))
	var doc, next yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return s, nil
	} else if err != nil {
		return nil, s.syntax(err)
	}
	if err := dec.Decode(&next); err == nil {
		return nil, s.fail(&next, "a second YAML document; a file holds one, split it at the line ---")
	} else if !errors.Is(err, io.EOF) {
		return nil, s.syntax(err)
	}
	s.root = doc.Content[0]
	if err := s.check(s.root, "", 0); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *source) syntax(err error) error {
	text, line := strings.TrimPrefix(err.Error(), "yaml: "), 0
	if n, rest, ok := strings.Cut(strings.TrimPrefix(text, "line "), ": "); ok {
		if l, err := strconv.Atoi(n); err == nil {
			text, line = rest, l
		}
	}
	return &policies.FileError{At: policies.Place{File: s.file, Line: line}, Err: errors.New(text)}
}

var plainTags = map[string]bool{
	"!!str": true, "!!int": true, "!!float": true, "!!bool": true, "!!null": true,
	"!!map": true, "!!seq": true, "!!timestamp": true,
}

// check walks the nodes, names them and refuses what readYAML says.
func (s *source) check(n *yaml.Node, path string, depth int) error {
	s.fields[n] = path
	if _, ok := s.keys[path]; !ok {
		s.keys[path] = s.at(n)
	}
	if _, ok := s.places[[2]int{n.Line, n.Column}]; !ok {
		s.places[[2]int{n.Line, n.Column}] = path
	}
	switch {
	case depth > maxDepth:
		return s.fail(n, "nested deeper than %d levels", maxDepth)
	case n.Anchor != "" || n.Kind == yaml.AliasNode:
		return s.fail(n, "anchors and aliases (& and *) are not read; write the value out")
	case n.ShortTag() == "!!merge":
		return s.fail(n, "merge keys (<<) are not read; write the fields out")
	case n.Style&yaml.TaggedStyle != 0 || !plainTags[n.ShortTag()]:
		return s.fail(n, "the tag %q is not read; write the value without it", n.Tag)
	}
	switch n.Kind {
	case yaml.MappingNode:
		return s.checkMapping(n, path, depth)
	case yaml.SequenceNode:
		for i, e := range n.Content {
			if err := s.check(e, fmt.Sprintf("%s[%d]", path, i), depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *source) checkMapping(n *yaml.Node, path string, depth int) error {
	seen := map[string]int{}
	for i := 0; i < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			s.fields[key] = path
			return s.fail(key, "a key must be a plain text")
		}
		at := join(path, key.Value)
		if err := s.check(key, at, depth+1); err != nil {
			return err
		}
		if line, ok := seen[key.Value]; ok {
			return s.fail(key, "the key stands twice, in line %d too", line)
		}
		seen[key.Value] = key.Line
		if err := s.check(value, at, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// at is the place of a node.
func (s *source) at(n *yaml.Node) position {
	if n == nil {
		return position{file: s.file}
	}
	return position{file: s.file, line: n.Line, column: n.Column}
}

// fail is an error about the value at n: place, field, what is wrong, and the
// line itself with a mark below it.
func (s *source) fail(n *yaml.Node, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	if n == nil || n.Line == 0 {
		return &policies.FileError{At: policies.Place{File: s.file}, Err: errors.New(text)}
	}
	field, ok := s.fields[n]
	if !ok { // a node of another reading of the same file
		field = s.places[[2]int{n.Line, n.Column}]
	}
	return s.failAt(n.Line, n.Column, field, text)
}

func (s *source) failAt(line, column int, field, text string) error {
	if strings.ContainsFunc(field, unicode.IsControl) {
		field = strconv.Quote(field)
	}
	if field != "" {
		text = field + ": " + text
	}
	return &policies.FileError{
		At: policies.Place{File: s.file, Line: line, Column: column}, Err: errors.New(text), Detail: s.excerpt(line, column),
	}
}

// excerpt shows a line of the file and a mark below the column, which counts
// characters.
func (s *source) excerpt(line, column int) string {
	const width = 120
	if line < 1 || line > len(s.lines) {
		return ""
	}
	text := []rune(s.lines[line-1])
	if column < 1 || column > len(text)+1 || column > width {
		return ""
	}
	if len(text) > width {
		text = append(text[:width:width], '…')
	}
	for i, r := range text {
		if unicode.IsControl(r) {
			text[i] = ' '
		}
	}
	no := fmt.Sprintf("%5d", line)
	return fmt.Sprintf("\n%s | %s\n%s | %s^", no, string(text), strings.Repeat(" ", len(no)), strings.Repeat(" ", column-1))
}

// object reads the mapping n by a table of its fields. A key outside the table
// is an error; so is a mapping that is none.
func (s *source) object(n *yaml.Node, what string, fields map[string]func(*yaml.Node) error) error {
	if n == nil || n.Kind != yaml.MappingNode {
		return s.fail(n, "%s must be a mapping of fields", what)
	}
	for i := 0; i < len(n.Content); i += 2 {
		key := n.Content[i]
		read, ok := fields[key.Value]
		if !ok {
			return s.fail(key, "%s has no such field; it has: %s", what, strings.Join(sortedKeys(fields), ", "))
		}
		if err := read(n.Content[i+1]); err != nil {
			return err
		}
	}
	return nil
}

// list calls read for every item of the sequence n.
func (s *source) list(n *yaml.Node, read func(*yaml.Node) error) error {
	if n.Kind != yaml.SequenceNode {
		return s.fail(n, "must be a list")
	}
	for _, e := range n.Content {
		if err := read(e); err != nil {
			return err
		}
	}
	return nil
}

// text is a field reader that stores a non-empty text.
func (s *source) text(into *string) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		if n.Kind != yaml.ScalarNode || n.ShortTag() == "!!null" || n.Value == "" {
			return s.fail(n, "must be a text, and not empty")
		}
		*into = n.Value
		return nil
	}
}

// parsed is a field reader that stores what parse makes of a text.
func parsed[T any](s *source, into *T, parse func(string) (T, error)) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		var text string
		if err := s.text(&text)(n); err != nil {
			return err
		}
		v, err := parse(text)
		if err != nil {
			return s.fail(n, "%v", err)
		}
		*into = v
		return nil
	}
}
