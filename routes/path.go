package routes

import (
	"strings"
)

// path is a request's path in the parts that matches read.
type path struct {
	missing bool   // the request has none: a CONNECT
	plain   string // without query and fragment
	shown   string // plain, without parameters where the table ignores them
	query   string
}

func (t *Table) split(s string) path {
	p := path{missing: s == "", plain: s}
	if i := strings.IndexAny(s, "?#"); i >= 0 {
		p.plain = s[:i]
	}
	if _, query, ok := strings.Cut(s, "?"); ok {
		p.query = query
	}
	p.shown = p.plain
	if t.ignoreSemi && strings.IndexByte(p.plain, ';') >= 0 {
		p.shown = withoutParameters(p.plain)
	}
	return p
}

// withoutParameters leaves out what follows a ";" in each segment.
func withoutParameters(s string) string {
	out := make([]byte, 0, len(s))
	keep := true
	for i := range len(s) {
		keep = s[i] == '/' || keep && s[i] != ';'
		if keep {
			out = append(out, s[i])
		}
	}
	return string(out)
}

type pathKind uint8

const (
	pathExact pathKind = iota
	pathPrefix
	pathSeparated
	pathRegex
	pathTemplate
	pathConnect
)

// pathMatch is the path_specifier of a RouteMatch. With fold, want is in lower
// case.
type pathMatch struct {
	kind pathKind
	fold bool
	want string
	re   *pattern
}

func (m *pathMatch) match(r *Request, p *path) bool {
	if m.kind == pathConnect {
		return isConnect(r)
	}
	if p.missing {
		return false
	}
	switch m.kind {
	case pathExact:
		return len(p.shown) == len(m.want) && m.begins(p.shown)
	case pathPrefix:
		return m.begins(p.shown)
	case pathSeparated:
		return m.begins(p.shown) && (len(p.shown) == len(m.want) || p.shown[len(m.want)] == '/')
	case pathRegex:
		return m.re.match(p.shown)
	case pathTemplate:
		return m.re.match(p.plain)
	}
	return false
}

func (m *pathMatch) begins(s string) bool {
	if m.fold {
		return beginsFold(s, m.want)
	}
	return strings.HasPrefix(s, m.want)
}

// isConnect: CONNECT, and the upgrade to connect-udp that Envoy makes of its
// extended form.
func isConnect(r *Request) bool {
	if r.Method == "CONNECT" {
		return true
	}
	v, _ := r.value("upgrade", 0)
	return len(v) == len("connect-udp") && beginsFold(v, "connect-udp")
}
