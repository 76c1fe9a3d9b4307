package routes

//lint:file-ignore SA1019 Envoy 1.40 still takes the fields that string_match replaced.

import (
	"errors"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

// old reads the deprecated kinds of a HeaderMatcher.
func (h *header) old(m *routev3.HeaderMatcher, patterns patterns) error {
	var err error
	switch k := m.GetHeaderMatchSpecifier().(type) {
	case *routev3.HeaderMatcher_ExactMatch:
		h.text, h.anyIfNone = text{kind: textExact, want: k.ExactMatch}, k.ExactMatch == ""
	case *routev3.HeaderMatcher_PrefixMatch:
		h.text = text{kind: textPrefix, want: k.PrefixMatch}
	case *routev3.HeaderMatcher_SuffixMatch:
		h.text = text{kind: textSuffix, want: k.SuffixMatch}
	case *routev3.HeaderMatcher_ContainsMatch:
		h.text = text{kind: textContains, want: k.ContainsMatch}
	case *routev3.HeaderMatcher_SafeRegexMatch:
		h.text.kind = textRegex
		h.text.re, err = patterns.compile(k.SafeRegexMatch.GetRegex())
	default:
		err = errors.New("an unknown kind of match")
	}
	return err
}
