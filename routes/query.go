package routes

import (
	"errors"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

// parameter is a QueryParameterMatcher. Envoy compares names and values as
// they stand, without decoding, and of several looks at the first.
type parameter struct {
	name    string
	only    bool // whether only its presence counts
	present bool // what only wants
	text    text
}

func newParameter(m *routev3.QueryParameterMatcher, patterns patterns) (parameter, error) {
	q := parameter{name: m.GetName()}
	var err error
	switch k := m.GetQueryParameterMatchSpecifier().(type) {
	case nil:
		q.only, q.present = true, true
	case *routev3.QueryParameterMatcher_PresentMatch:
		q.only, q.present = true, k.PresentMatch
	case *routev3.QueryParameterMatcher_StringMatch:
		q.text, err = newText(k.StringMatch, patterns)
	default:
		err = errors.New("an unknown kind of match")
	}
	return q, err
}

func (q *parameter) match(p *path) bool {
	v, ok := first(p.query, q.name)
	if q.only {
		return ok == q.present
	}
	return ok && q.text.match(v)
}

// first is the value of the first parameter of a name. A parameter without "="
// has the value "".
func first(query, name string) (string, bool) {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		if key, value, _ := strings.Cut(pair, "="); key == name {
			return value, true
		}
	}
	return "", false
}

// cookie is a CookieMatcher.
type cookie struct {
	name   string
	invert bool
	text   text
}

func newCookie(m *routev3.CookieMatcher, patterns patterns) (cookie, error) {
	t, err := newText(m.GetStringMatch(), patterns)
	return cookie{name: m.GetName(), invert: m.GetInvertMatch(), text: t}, err
}

func (c *cookie) match(r *Request) bool {
	for i := 0; ; i++ {
		all, more := r.value("cookie", i)
		if !more {
			return c.invert
		}
		if v, ok := crumb(all, c.name); ok {
			return c.text.match(v) != c.invert
		}
	}
}

// crumb is the value of the first cookie of a name, without the quotes around
// it. What has no "=" is no cookie.
func crumb(all, name string) (string, bool) {
	for all != "" {
		var one string
		one, all, _ = strings.Cut(all, ";")
		key, value, ok := strings.Cut(strings.TrimLeft(one, " "), "=")
		if !ok || key != name {
			continue
		}
		if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
			value = value[1 : len(value)-1]
		}
		return value, true
	}
	return "", false
}
