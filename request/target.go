package request

import (
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxParameters bounds how many parameters of a query are read here.
const maxParameters = 1000

// target writes what is made of the path and the query, and of the body that is
// not there; nothing of it where policies/input.go finds them malformed. It is
// false where there are too many parameters.
func (d *documenter) target() bool {
	raw, query, _ := strings.Cut(d.r.Path, "?")
	if strings.Count(query, "&") >= maxParameters {
		return false
	}
	d.b = append(d.b, `,"version":{"ext_authz":"v3","encoding":"protojson"}`...)
	if d.body {
		d.erased = append(d.erased, `,"/input/parsed_body"`...)
	}
	var room [16]Header
	path, err := url.PathUnescape(raw)
	list, ok := parameters(room[:0], query)
	if err != nil || !utf8.ValidString(path) || !ok {
		return true
	}
	d.b = append(d.b, `,"parsed_path":[`...)
	path = strings.TrimLeft(path, "/")
	for more := true; more; {
		var segment string
		segment, path, more = strings.Cut(path, "/")
		d.b = AppendString(d.b, segment)
		if more {
			d.b = append(d.b, ',')
		}
	}
	d.b = append(d.b, `],"parsed_query":`...)
	d.parameters(list)
	d.b = append(d.b, `,"parsed_body":null,"truncated_body":false`...)
	return true
}

// parameters appends those of a query to list, as url.ParseQuery reads them. It
// is false where that or policies/input.go refuses them.
func parameters(list []Header, query string) ([]Header, bool) {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		if pair == "" {
			continue
		}
		rawName, rawValue, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(rawName)
		if err != nil || strings.IndexByte(pair, ';') >= 0 || !utf8.ValidString(name) {
			return nil, false
		}
		value, err := url.QueryUnescape(rawValue)
		if err != nil || !utf8.ValidString(value) {
			return nil, false
		}
		list = append(list, Header{name, value})
	}
	return list, true
}

// parameters writes an object of name to list of values.
func (d *documenter) parameters(list []Header) {
	sortByName(list)
	d.b = append(d.b, '{')
	first := len(d.b)
	for len(list) > 0 {
		var same []Header
		same, list = ofOneName(list)
		if len(d.b) > first {
			d.b = append(d.b, ',')
		}
		d.b = append(AppendString(d.b, same[0].Name), ':')
		open := byte('[')
		for _, p := range same {
			d.b = AppendString(append(d.b, open), p.Value)
			open = ','
		}
		d.b = append(d.b, ']')
	}
	d.b = append(d.b, '}')
}

// sortByName keeps those of one name in their order.
func sortByName(list []Header) {
	slices.SortStableFunc(list, func(a, b Header) int { return strings.Compare(a.Name, b.Name) })
}

// ofOneName are the first of a sorted list, all of one name, and what follows.
func ofOneName(list []Header) (same, rest []Header) {
	n := 1
	for n < len(list) && list[n].Name == list[0].Name {
		n++
	}
	return list[:n], list[n:]
}

// joined are the values of a header, as a policy sees them.
func joined(same []Header) string {
	if len(same) == 1 {
		return same[0].Value
	}
	var b strings.Builder
	for i, h := range same {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(h.Value)
	}
	return b.String()
}
