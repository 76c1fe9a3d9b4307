package policies

import (
	"bytes"
	"encoding/binary"
	"strings"
	"unicode/utf8"

	"meshseal/request"
)

// maxKey bounds a key, in bytes.
const maxKey = 2048

// Cacheable is nil if the program decides alike about requests whose keys, as
// AppendKey makes them, are equal: what it decided once can be remembered, and
// so can an error that wraps ErrUndefined, ErrResultType or ErrEval. The error
// says what stands against that, and where: a built-in that is not pure, or a
// part of the input without a bound.
func (p *Program) Cacheable() error { return p.reads.why }

// AppendKey appends what the program can read of a request and its facts, for a
// program that is Cacheable: two requests with the same key are decided alike.
// certificate stands for the text of r.Source.Certificate, and for no other
// text; 0 if nothing does.
//
// It is false, and nothing appended, for a request that has to be decided by
// itself: with a body, with a path, query or content type that may be refused,
// or with more than 2 KiB to tell it by.
func (p *Program) AppendKey(dst []byte, r *request.Request, f *Facts, certificate uint64) (key []byte, ok bool) {
	if p.reads.why != nil || !simple(r) {
		return dst, false
	}
	k := keyed{dst: dst, start: len(dst), r: r, f: f, certificate: certificate}
	k.ok = k.target(r.Path)
	for _, part := range p.reads.parts {
		if k.ok {
			k.part(part)
		}
	}
	if !k.ok || len(k.dst)-k.start > maxKey {
		return k.dst[:k.start], false
	}
	return k.dst, true
}

// simple reports whether the input document of a request can be made without
// decoding it: there is no body, and so nothing to parse and no parse to fail.
func simple(r *request.Request) bool {
	return r.Attributes && !r.HasBody && r.Fault() == "" && len(r.Path) <= maxKey && simpleType(r)
}

// simpleType reports whether the content type is one that contentType does not
// refuse.
func simpleType(r *request.Request) bool {
	value, ok := r.Value("content-type", 0)
	if !ok {
		return true
	}
	if _, again := r.Value("content-type", 1); again {
		return false
	}
	media, param, more := strings.Cut(value, ";")
	if more {
		name, value, ok := strings.Cut(strings.TrimPrefix(param, " "), "=")
		if !ok || !isToken(name) || !isToken(value) {
			return false
		}
	}
	kind, sub, ok := strings.Cut(media, "/")
	return ok && isToken(kind) && isToken(sub)
}

// isToken reports whether s is letters, digits, "-", ".", "_" and "+", and
// something: less than what RFC 9110, section 5.6.2, takes for a token.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c|0x20 < 'a' || c|0x20 > 'z' {
			if (c < '0' || c > '9') && c != '-' && c != '.' && c != '_' && c != '+' {
				return false
			}
		}
	}
	return s != ""
}

// keyed is a key while it is made. What is absent is the byte 0; what is there
// is the byte 1, and a text after that its length in two bytes and its bytes.
type keyed struct {
	dst         []byte
	start       int
	r           *request.Request
	f           *Facts
	certificate uint64
	ok          bool
}

func (k *keyed) absent() { k.dst = append(k.dst, 0) }

func (k *keyed) text(s string) {
	if k.ok = k.ok && len(k.dst)-k.start+len(s) <= maxKey; k.ok {
		k.dst = binary.BigEndian.AppendUint16(append(k.dst, 1), uint16(len(s)))
		k.dst = append(k.dst, s...)
	}
}

func (k *keyed) part(p *part) {
	switch p.kind {
	case factPart:
		k.text(p.text(k.r, k.f))
	case textPart:
		if s := p.text(k.r, k.f); s != "" {
			k.text(s)
		} else {
			k.absent()
		}
	case certificatePart:
		k.proven()
	case agreedPart:
		for _, kind := range k.f.EvidenceAgreed {
			k.text(kind)
		}
		k.absent()
	case portPart:
		n := p.port(k.r)
		k.ok = n != 0
		k.dst = binary.BigEndian.AppendUint32(k.dst, n)
	case headerPart:
		k.header(p.path[len(p.path)-1])
	case pathPart:
		raw, _, _ := strings.Cut(k.r.Path, "?")
		k.text(raw)
	case queryPart:
		_, raw, _ := strings.Cut(k.r.Path, "?")
		k.text(raw)
	case segmentPart:
		k.segment(p.index)
	case valuesPart:
		k.values(p.path[len(p.path)-1])
	case presencePart:
		is, known := p.there(k.r)
		if k.ok = known; is {
			k.dst = append(k.dst, 1)
		} else {
			k.absent()
		}
	case bodyPart, constantPart: // the same for every request without a body
	default:
		k.ok = false
	}
}

// proven is the number that stands for the certificate: that of an inbound
// caller, which has been verified. What an outbound one shows has not.
func (k *keyed) proven() {
	switch {
	case k.r.Source.Certificate == "":
		k.absent()
	case k.certificate == 0 || k.f.Direction == "outbound":
		k.ok = false
	default:
		k.dst = binary.BigEndian.AppendUint64(append(k.dst, 1), k.certificate)
	}
}

// open begins a text that is appended in parts, close ends it.
func (k *keyed) open() (at int) {
	k.dst = append(k.dst, 1, 0, 0)
	return len(k.dst)
}

func (k *keyed) close(at int) {
	n := len(k.dst) - at
	if k.ok = k.ok && n <= maxKey; k.ok {
		binary.BigEndian.PutUint16(k.dst[at-2:], uint16(n))
	}
}

// header is all values of a header, joined as a policy sees them.
func (k *keyed) header(name string) {
	value, ok := k.r.Value(name, 0)
	if !ok {
		k.absent()
		return
	}
	at := k.open()
	for i := 1; ok && len(k.dst)-k.start+len(value) <= maxKey; i++ {
		k.dst = append(k.dst, value...)
		if value, ok = k.r.Value(name, i); ok {
			k.dst = append(k.dst, ',')
		}
	}
	k.ok = !ok
	k.close(at)
}

// segment is the i-th of parsed_path.
func (k *keyed) segment(i int) {
	raw, _, _ := strings.Cut(k.r.Path, "?")
	at := k.open()
	k.decode(raw, false)
	path := bytes.TrimLeft(k.dst[at:], "/")
	for ; i > 0; i-- {
		_, rest, more := bytes.Cut(path, []byte{'/'})
		if !more {
			k.dst = append(k.dst[:at-3], 0)
			return
		}
		path = rest
	}
	first, _, _ := bytes.Cut(path, []byte{'/'})
	k.dst = k.dst[:at+copy(k.dst[at:], first)]
	k.close(at)
}

// values are those of one name in the query.
func (k *keyed) values(name string) {
	_, query, _ := strings.Cut(k.r.Path, "?")
	for query != "" && k.ok {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		raw, value, _ := strings.Cut(pair, "=")
		if pair == "" {
			continue
		}
		at := k.open()
		k.decode(raw, true)
		if string(k.dst[at:]) != name {
			k.dst = k.dst[:at-3]
			continue
		}
		k.dst = k.dst[:at]
		k.decode(value, true)
		k.close(at)
	}
	k.absent()
}

// target reports whether parsePath takes the path of a request.
func (k *keyed) target(target string) bool {
	path, query, _ := strings.Cut(target, "?")
	at := len(k.dst)
	defer func() { k.dst = k.dst[:at] }()
	if !k.decode(path, false) {
		return false
	}
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		name, value, _ := strings.Cut(pair, "=")
		if strings.IndexByte(pair, ';') >= 0 || !k.decode(name, true) || !k.decode(value, true) {
			return false
		}
	}
	return true
}

// decode appends s without its escapes, as net/url does it, and reports whether
// they are in order and what they give is UTF-8.
func (k *keyed) decode(s string, query bool) bool {
	at := len(k.dst)
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '+' && query:
			c = ' '
		case c == '%':
			if i+2 >= len(s) {
				return false
			}
			high, ok := hexDigit(s[i+1])
			low, too := hexDigit(s[i+2])
			if !ok || !too {
				return false
			}
			c = high<<4 | low
			i += 2
		}
		k.dst = append(k.dst, c)
	}
	return utf8.Valid(k.dst[at:])
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}
