package request

import (
	"math"
	"strconv"
)

// structure writes a google.protobuf.Struct as the object that it stands for.
func (d *documenter) structure(m *message, b []byte, depth int) bool {
	d.b = append(d.b, '{')
	first, whole := len(d.b), b
	for len(b) > 0 {
		f, value, _, rest, ok := m.next(b)
		if !ok {
			return false
		}
		if len(d.b) > first {
			d.b = append(d.b, ',')
		}
		if value, ok = d.key(m, f, whole, value, len(whole)-len(b)); !ok || !d.structureValue(f.message.fields[2].message, value, depth+1) {
			return false
		}
		b = rest
	}
	d.b = append(d.b, '}')
	return true
}

// structureValue writes a google.protobuf.Value as what it stands for.
func (d *documenter) structureValue(m *message, b []byte, depth int) bool {
	if depth > maxNesting {
		return false
	}
	if len(b) == 0 {
		d.b = append(d.b, "null"...)
		return true
	}
	f, value, number, rest, ok := m.next(b)
	if !ok || len(rest) > 0 {
		return false
	}
	switch f.name {
	case "nullValue":
		d.b = append(d.b, "null"...)
		return true
	case "structValue":
		return d.structure(f.message, value, depth+1)
	case "listValue":
		return d.structureList(f.message, value, depth+1)
	}
	return d.value(f, value, number, depth)
}

func (d *documenter) structureList(m *message, b []byte, depth int) bool {
	d.b = append(d.b, '[')
	first := len(d.b)
	for len(b) > 0 {
		f, value, _, rest, ok := m.next(b)
		if !ok {
			return false
		}
		if len(d.b) > first {
			d.b = append(d.b, ',')
		}
		if !d.structureValue(f.message, value, depth) {
			return false
		}
		b = rest
	}
	d.b = append(d.b, ']')
	return true
}

// appendFloat is a number as a policy sees it: see policies/document.go.
func appendFloat(b []byte, f float64) []byte {
	switch {
	case math.IsNaN(f):
		return append(b, `"NaN"`...)
	case math.IsInf(f, 1):
		return append(b, `"Infinity"`...)
	case math.IsInf(f, -1):
		return append(b, `"-Infinity"`...)
	}
	return strconv.AppendFloat(b, f, 'g', -1, 64)
}
