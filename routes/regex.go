package routes

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// pattern is a regular expression that has to match the whole of a value.
//
// Envoy's RE2 works on bytes, as if each were a character of ISO 8859-1, and
// so does a pattern: expression and value are both put into that form before
// Go's RE2 sees them. Values of ASCII, nearly all, are the same in both.
type pattern struct {
	whole *regexp.Regexp
	begin string // what each value that matches begins with
}

func (p *pattern) match(v string) bool {
	return strings.HasPrefix(v, p.begin) && p.whole.MatchString(bytewise(v))
}

// bytewise is s with a character for each byte.
func bytewise(s string) string {
	if ascii(s) == len(s) {
		return s
	}
	out := make([]rune, len(s))
	for i := range len(s) {
		out[i] = rune(s[i])
	}
	return string(out)
}

// ascii is how many bytes at the start of s are ASCII.
func ascii(s string) int {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return i
		}
	}
	return len(s)
}

// patterns are the regular expressions of a table, each compiled once.
type patterns map[string]*pattern

func (ps patterns) compile(s string) (*pattern, error) {
	if p, ok := ps[s]; ok {
		return p, nil
	}
	if err := portable(s); err != nil {
		return nil, err
	}
	re, err := regexp.Compile(bytewise(s))
	if err != nil {
		return nil, fmt.Errorf("the expression %q: %w", s, err)
	}
	whole, err := regexp.Compile(`\A(?:` + bytewise(s) + `)\z`)
	if err != nil {
		return nil, fmt.Errorf("the expression %q: %w", s, err)
	}
	begin, _ := re.LiteralPrefix()
	p := &pattern{whole: whole, begin: begin[:ascii(begin)]}
	ps[s] = p
	return p, nil
}

// portable refuses what Go's regular expressions and Envoy's RE2 do not read
// alike: single bytes, a quotation without an end, and the case of characters
// outside ASCII, which Envoy's does not know.
func portable(s string) error {
	beyond := ascii(s) < len(s)
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			continue
		}
		i++
		switch s[i] {
		case 'C':
			return fmt.Errorf(`the expression %q matches a single byte (\C); write (?s:.)`, s)
		case 'Q':
			end := strings.Index(s[i:], `\E`)
			if end < 0 {
				return fmt.Errorf(`the expression %q has a \Q without \E`, s)
			}
			i += end + 1
		case 'p', 'P', 'x', '0', '1', '2', '3', '4', '5', '6', '7':
			beyond = true
		}
	}
	if beyond && folds(s) {
		return fmt.Errorf("the expression %q ignores case, which Envoy does for the letters of ASCII alone, and has characters beyond them or as numbers", s)
	}
	return nil
}

// folds says whether an expression may ignore case somewhere.
func folds(s string) bool {
	for {
		_, after, ok := strings.Cut(s, "(?")
		if !ok {
			return false
		}
		flags := after[:len(after)-len(strings.TrimLeft(after, "imsU-"))]
		if on, _, _ := strings.Cut(flags, "-"); strings.Contains(on, "i") {
			return true
		}
		s = after
	}
}
