package routes

import (
	"errors"
	"strings"

	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

type textKind uint8

const (
	textExact textKind = iota
	textPrefix
	textSuffix
	textContains
	textRegex
)

// text is a StringMatcher. With fold, want is in lower case.
type text struct {
	kind textKind
	fold bool
	want string
	re   *pattern
}

func (t *text) match(v string) bool {
	switch t.kind {
	case textExact:
		return len(v) == len(t.want) && t.begins(v)
	case textPrefix:
		return t.begins(v)
	case textSuffix:
		return len(v) >= len(t.want) && t.begins(v[len(v)-len(t.want):])
	case textContains:
		return t.within(v)
	case textRegex:
		return t.re.match(v)
	}
	return false
}

func (t *text) begins(v string) bool {
	if t.fold {
		return beginsFold(v, t.want)
	}
	return strings.HasPrefix(v, t.want)
}

func (t *text) within(v string) bool {
	if !t.fold {
		return strings.Contains(v, t.want)
	}
	for i := 0; i+len(t.want) <= len(v); i++ {
		if beginsFold(v[i:], t.want) {
			return true
		}
	}
	return false
}

// newText compiles a StringMatcher; what is not one of the kinds above comes
// back as an *unsupported.
func newText(m *matcherv3.StringMatcher, patterns patterns) (text, error) {
	t := text{fold: m.GetIgnoreCase()}
	switch k := m.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		t.kind, t.want = textExact, k.Exact
	case *matcherv3.StringMatcher_Prefix:
		t.kind, t.want = textPrefix, k.Prefix
	case *matcherv3.StringMatcher_Suffix:
		t.kind, t.want = textSuffix, k.Suffix
	case *matcherv3.StringMatcher_Contains:
		t.kind, t.want = textContains, k.Contains
	case *matcherv3.StringMatcher_SafeRegex:
		var err error
		t.kind = textRegex
		t.re, err = patterns.compile(k.SafeRegex.GetRegex())
		return t, err
	case *matcherv3.StringMatcher_Custom:
		return t, errors.New("an extension decides the match")
	default:
		return t, errors.New("it says no kind of match")
	}
	if t.fold {
		t.want = lower(t.want)
	}
	return t, nil
}

// lower is s with the letters of ASCII in lower case.
func lower(s string) string { return string(appendLower(nil, s)) }

func appendLower(to []byte, s string) []byte {
	for i := range len(s) {
		to = append(to, lowerByte(s[i]))
	}
	return to
}

func lowerByte(b byte) byte {
	if 'A' <= b && b <= 'Z' {
		b += 'a' - 'A'
	}
	return b
}

// beginsFold reports whether v begins with low, which is in lower case, when
// the case of ASCII letters is ignored.
func beginsFold(v, low string) bool {
	if len(v) < len(low) {
		return false
	}
	for i := range len(low) {
		if lowerByte(v[i]) != low[i] {
			return false
		}
	}
	return true
}
