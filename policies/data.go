package policies

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"unicode/utf8"
)

// maxDepth is how deep JSON may be nested: the data document and a request's
// body.
const maxDepth = 200

// parseData reads the data document: one JSON object.
func parseData(f File) (map[string]any, error) {
	v, offset, err := decodeJSON(f.Data)
	if err != nil {
		line := 1 + bytes.Count(f.Data[:min(offset, int64(len(f.Data)))], []byte{'\n'})
		return nil, fmt.Errorf("%s:%d: %w", f.Path, line, err)
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s:1: want one JSON object, got %s", f.Path, kind(v))
	}
	return m, nil
}

// decodeJSON reads exactly one JSON value, and only such as everybody reads
// alike: valid UTF-8, no name twice in an object, every number in the range of
// a double and not longer than maxDigits (RFC 8259, sections 4, 6 and 8.1),
// nested at most maxDepth deep.
// Numbers are json.Number. The offset is where an error was found.
func decodeJSON(data []byte) (v any, offset int64, err error) {
	if !utf8.Valid(data) {
		return nil, 0, errors.New("JSON is not valid UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if v, err = decodeValue(d, 0); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, d.InputOffset(), err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, d.InputOffset(), errors.New("more bytes after the JSON value")
	}
	return v, d.InputOffset(), nil
}

func decodeValue(d *json.Decoder, depth int) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("JSON is nested more than %d deep", maxDepth)
	}
	switch t := t.(type) {
	case json.Delim:
		if t == '{' {
			return decodeObject(d, depth)
		}
		return decodeArray(d, depth)
	case json.Number:
		if len(t) > maxDigits {
			return nil, fmt.Errorf("number %s is longer than %d characters", clip(t.String()), maxDigits)
		}
		if f, err := t.Float64(); err != nil || math.IsInf(f, 0) {
			return nil, fmt.Errorf("number %s is out of the range of a double", clip(t.String()))
		}
	}
	return t, nil
}

func decodeObject(d *json.Decoder, depth int) (any, error) {
	m := map[string]any{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, ok := t.(string)
		if !ok {
			return nil, fmt.Errorf("want a name in the object, got %v", t)
		}
		if _, ok := m[name]; ok {
			return nil, fmt.Errorf("the object has the name %q twice", clip(name))
		}
		if m[name], err = decodeValue(d, depth+1); err != nil {
			return nil, err
		}
	}
	_, err := d.Token()
	return m, err
}

func decodeArray(d *json.Decoder, depth int) (any, error) {
	list := []any{}
	for d.More() {
		v, err := decodeValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err := d.Token()
	return list, err
}
