package changes

import (
	"strconv"
	"strings"
	"unicode"

	"meshseal/snapshot"
)

// fieldList collects differences up to the bound, and counts the rest.
type fieldList struct {
	fields []Field
	more   int
}

func (l *fieldList) add(f Field) {
	if len(l.fields) == MaxFields {
		l.more++
		return
	}
	l.fields = append(l.fields, f)
}

// compareResources lists the fields that differ; none if both have the same, or
// one cannot be read.
func compareResources(url string, before, after []byte) fieldList {
	x, y := document(url, before, withoutDerived), document(url, after, withoutDerived)
	if x == nil || y == nil {
		return fieldList{}
	}
	var l fieldList
	l.compare("", x, y)
	if len(l.fields) == 0 {
		l.compare("", document(url, before, whole), document(url, after, whole))
	}
	return l
}

// compare adds what y has otherwise than x, at path.
func (l *fieldList) compare(path string, x, y value) {
	switch x := x.(type) {
	case *message:
		if y, ok := y.(*message); ok && x.kind == y.kind {
			l.compareMessages(path, x, y)
			return
		}
	case list:
		if y, ok := y.(list); ok {
			l.compareLists(path, x, y)
			return
		}
	}
	if before, after := write(x), write(y); before != after {
		before, after = shorten(before, after)
		l.add(Field{Path: path, Op: snapshot.Changed, Before: before, After: after})
	}
}

// compareMessages takes the members in their order, which is the same for both:
// those that are gone come before the one that they stood before.
func (l *fieldList) compareMessages(path string, x, y *message) {
	left := x.members
	inY := map[string]bool{}
	for _, f := range y.members {
		inY[f.name] = true
	}
	gone := func() {
		for len(left) > 0 && !inY[left[0].name] {
			l.removed(below(path, x, left[0].name), left[0].value)
			left = left[1:]
		}
	}
	for _, f := range y.members {
		gone()
		at := below(path, y, f.name)
		if len(left) == 0 || left[0].name != f.name {
			l.added(at, f.value, "")
			continue
		}
		l.compare(at, left[0].value, f.value)
		left = left[1:]
	}
	gone()
}

func (l *fieldList) added(path string, v value, where string) {
	l.add(Field{Path: path, Op: snapshot.Added, After: clip(write(v)), Where: where})
}

func (l *fieldList) removed(path string, v value) {
	l.add(Field{Path: path, Op: snapshot.Removed, Before: clip(write(v))})
}

// below is the path of a member: fields with dots, keys of maps in brackets.
func below(path string, m *message, name string) string {
	switch {
	case m.kind == "":
		return path + "[" + plain(name) + "]"
	case path == "":
		return name
	}
	return path + "." + name
}

// plain is a key as it is, and quoted where a reader could take it for more.
func plain(s string) string {
	odd := func(r rune) bool { return strings.ContainsRune(`[]"= `, r) || !unicode.IsPrint(r) }
	if s == "" || strings.ContainsFunc(s, odd) || strings.ToValidUTF8(s, "") != s {
		return strconv.Quote(s)
	}
	return s
}

// write is v on one line, as in YAML's flow style.
func write(v value) string {
	var b strings.Builder
	writeTo(&b, v)
	return b.String()
}

func writeTo(b *strings.Builder, v value) {
	switch v := v.(type) {
	case scalar:
		b.WriteString(string(v))
	case list:
		b.WriteByte('[')
		for i, e := range v {
			if i > 0 {
				b.WriteString(", ")
			}
			writeTo(b, e)
		}
		b.WriteByte(']')
	case *message:
		b.WriteByte('{')
		for i, f := range v.members {
			if i > 0 {
				b.WriteString(", ")
			}
			b.WriteString(plain(f.name) + ": ")
			writeTo(b, f.value)
		}
		b.WriteByte('}')
	}
}
