package request

import (
	"unicode/utf8"
)

const hexDigits = "0123456789abcdef"

// plain are the bytes that stand in a JSON string as they are.
var plain = func() (is [256]bool) {
	for c := ' '; c < 0x7f; c++ {
		is[c] = c != '"' && c != '\\' && c != '<' && c != '>' && c != '&'
	}
	return is
}()

// AppendString appends a JSON string, as encoding/json writes it: what is not
// UTF-8 is U+FFFD, and what would mean something in HTML is escaped. The control
// characters that encoding/json leaves as they are, DEL and U+0080 to U+009F, are
// escaped too.
func AppendString(dst []byte, s string) []byte {
	return append(appendEscaped(append(dst, '"'), s), '"')
}

// appendEscaped is AppendString without the quotes.
func appendEscaped(dst []byte, s string) []byte {
	done := 0
	for i := 0; i < len(s); {
		c := s[i]
		if plain[c] {
			i++
			continue
		}
		size, code := 1, rune(c)
		if c >= utf8.RuneSelf {
			code, size = utf8.DecodeRuneInString(s[i:])
			if !escaped(code, size) {
				i += size
				continue
			}
		}
		dst = appendEscape(append(dst, s[done:i]...), code)
		i += size
		done = i
	}
	return append(dst, s[done:]...)
}

// escaped reports whether a rune beyond ASCII is: C1, U+2028 and U+2029, and bytes
// that are none.
func escaped(r rune, size int) bool {
	return r <= 0x9f || r == '\u2028' || r == '\u2029' || r == utf8.RuneError && size == 1
}

func appendEscape(dst []byte, r rune) []byte {
	switch r {
	case '"', '\\':
		return append(dst, '\\', byte(r))
	case '\b':
		return append(dst, `\b`...)
	case '\f':
		return append(dst, `\f`...)
	case '\n':
		return append(dst, `\n`...)
	case '\r':
		return append(dst, `\r`...)
	case '\t':
		return append(dst, `\t`...)
	}
	return append(dst, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
}
