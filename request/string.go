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
		if i+8 <= len(s) && allPlain(s[i:i+8]) {
			i += 8
			continue
		}
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

// allPlain reports whether all of eight bytes stand in a JSON string as they are;
// for a few that do it is false. In each byte of a word it looks for the ones that
// do not, by the borrow of a subtraction.
func allPlain(s string) bool {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	w := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 | uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
	zero := func(x uint64) uint64 { return (x - ones) &^ x }
	bad := w | (w - ones*' ') | (w + ones) // beyond ASCII; below a space; DEL
	bad |= zero(w^ones*'"') | zero(w^ones*'\\') | zero(w^ones*'&')
	bad |= zero((w &^ (ones * 2)) ^ ones*'<') // < and >
	return bad&highs == 0
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
