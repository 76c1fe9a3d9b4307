package routes

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	templatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"
)

// What the wildcards of a URI template take: * at least one character of a
// segment, ** any number of characters and segments. Envoy's documentation
// says pchar of RFC 3986; what it takes is each visible character of ASCII but
// the brackets.
const (
	segmentGlob = `[!-.0-Z\\^-~]+`
	textGlob    = `[!-Z\\^-~]*`
)

var (
	templateLiteral  = regexp.MustCompile(`\A[a-zA-Z0-9\-._~%!$&'()+,;:@=]+`)
	templateVariable = regexp.MustCompile(`\A\{([a-zA-Z][a-zA-Z0-9_]{0,15})(?:=([^{}]*))?\}`)
)

// newTemplate turns a URI template into the regular expression of the paths
// that it matches.
func newTemplate(m *templatev3.UriTemplateMatchConfig, patterns patterns) (*pattern, error) {
	re, err := templateExpression(m.GetPathTemplate())
	if err != nil {
		return nil, fmt.Errorf("the template %q: %w", m.GetPathTemplate(), err)
	}
	return patterns.compile(re)
}

func templateExpression(s string) (string, error) {
	if !strings.HasPrefix(s, "/") {
		return "", errors.New("it does not begin with /")
	}
	t := template{seen: map[string]bool{}}
	for rest := s; rest != ""; {
		n, err := t.part(rest)
		if err != nil {
			return "", err
		}
		rest = rest[n:]
	}
	return t.out.String(), nil
}

// template builds the expression of a URI template.
type template struct {
	out  strings.Builder
	seen map[string]bool // names of variables
	text bool            // a ** came: no other wildcard may follow
	mid  bool            // something of the segment came
}

// part takes a slash, a variable, a wildcard or a literal from the start of s
// and returns its length.
func (t *template) part(s string) (int, error) {
	if s[0] == '/' {
		t.out.WriteByte('/')
		t.mid = false
		return 1, nil
	}
	defer func() { t.mid = true }()
	switch s[0] {
	case '{':
		return t.variable(s)
	case '*':
		return t.wildcard(s)
	}
	lit := templateLiteral.FindString(s)
	if lit == "" {
		return 0, fmt.Errorf("it has %q, which no literal may have", s[:1])
	}
	t.out.WriteString(regexp.QuoteMeta(lit))
	return len(lit), nil
}

func (t *template) wildcard(s string) (int, error) {
	switch {
	case t.mid: // Envoy would read it as a repetition of what comes before it
		return 0, errors.New("a * does not stand at the start of a segment; name it, {name}")
	case t.text:
		return 0, errors.New("a wildcard follows **")
	case strings.HasPrefix(s, "**"):
		t.text = true
		t.out.WriteString(textGlob)
		return 2, nil
	}
	t.out.WriteString(segmentGlob)
	return 1, nil
}

// variable takes {name}, which is {name=*}, or {name=…} with segments.
func (t *template) variable(s string) (int, error) {
	v := templateVariable.FindStringSubmatch(s)
	if v == nil {
		return 0, fmt.Errorf("%q does not begin with a variable", s)
	}
	if t.seen[v[1]] || len(t.seen) == 5 {
		return 0, fmt.Errorf("the variable %q is one too many", v[1])
	}
	t.seen[v[1]] = true
	match := v[2]
	if !strings.Contains(v[0], "=") {
		match = "*"
	}
	if match == "" || match[0] == '/' {
		return 0, fmt.Errorf("the variable %q cannot match %q", v[1], match)
	}
	t.mid = false
	for match != "" {
		n, err := t.part(match)
		if err != nil {
			return 0, fmt.Errorf("the variable %q: %w", v[1], err)
		}
		match = match[n:]
	}
	return len(v[0]), nil
}
