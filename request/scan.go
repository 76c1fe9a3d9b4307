package request

import (
	"slices"
	"strings"
	"unicode/utf8"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"
)

// maxNesting bounds how deep what is scanned may be nested; deeper goes the slow
// way, which has a bound of its own.
const maxNesting = 64

// scan reads the fields of r from the bytes of a message, which become parts of
// r. It is false for bytes that decoding might read in another way than it does,
// or refuse: a field that comes twice, that is of another type or that the
// message does not have, text that is not UTF-8, headers whose names are not in
// lower case. All of the bytes are looked at, since decoding would refuse the
// whole for any of them.
func (r *Request) scan(wire []byte) bool {
	if !r.scanMessage(checkRequest, wire, nil, 0) {
		return false
	}
	if r.fromMap {
		slices.SortFunc(r.Headers, func(a, b Header) int { return strings.Compare(a.Name, b.Name) })
		for i := 1; i < len(r.Headers); i++ {
			if r.Headers[i].Name == r.Headers[i-1].Name {
				return false
			}
		}
	}
	return true
}

// scanMessage reads one message; p is the peer that it is a part of.
func (r *Request) scanMessage(m *message, b []byte, p *Peer, depth int) bool {
	if depth > maxNesting {
		return false
	}
	var seen uint64
	for len(b) > 0 {
		f, value, number, rest, ok := m.next(b)
		if !ok || seen&f.single != 0 {
			return false
		}
		seen |= f.single
		b = rest
		switch {
		case f.wire != protowire.BytesType:
			ok = r.number(f, number, p)
		case f.message == nil:
			ok = r.text(f, value, p)
		case f.use == useHeaderMap:
			ok = r.headerMap(value)
		case f.use == useHeaders:
			ok = r.headerEntry(f.message, value, depth)
		default:
			ok = r.scanMessage(f.message, value, r.part(f.use, p), depth+1)
		}
		if !ok {
			return false
		}
	}
	return true
}

// next is the first field of b, with its bytes or its number, and what follows.
func (m *message) next(b []byte) (f *field, value []byte, number uint64, rest []byte, ok bool) {
	n, typ, length := protowire.Number(b[0]>>3), protowire.Type(b[0]&7), 1
	if b[0] >= 0x80 || n == 0 {
		if n, typ, length = protowire.ConsumeTag(b); length < 0 {
			return nil, nil, 0, nil, false
		}
	}
	if f = m.at(n); f == nil || f.wire != typ {
		return nil, nil, 0, nil, false
	}
	b = b[length:]
	if typ == protowire.BytesType && len(b) > 0 && b[0] < 0x80 {
		if end := 1 + int(b[0]); end <= len(b) {
			return f, b[1:end], 0, b[end:], true
		}
		return nil, nil, 0, nil, false
	}
	switch typ {
	case protowire.VarintType:
		number, length = protowire.ConsumeVarint(b)
	case protowire.Fixed64Type:
		number, length = protowire.ConsumeFixed64(b)
	default:
		value, length = protowire.ConsumeBytes(b)
	}
	if length < 0 {
		return nil, nil, 0, nil, false
	}
	return f, value, number, b[length:], true
}

// part notes that there is a message, and is the peer that it is a part of.
func (r *Request) part(u use, p *Peer) *Peer {
	switch u {
	case useAttributes:
		r.Attributes = true
	case useHTTP:
		r.HTTP = true
	case useSource:
		return &r.Source
	case useDestination:
		return &r.Destination
	case useAddress:
		p.Address.Other = true // until it says something
	}
	return p
}

func (r *Request) number(f *field, n uint64, p *Peer) bool {
	switch f.use {
	case useSize:
		r.Size = int64(n)
	case usePort:
		if n>>32 != 0 {
			return false
		}
		if p != nil {
			p.Address.Port = uint32(n)
			p.Address.Other = p.Address.Other && n == 0
		}
	}
	return true
}

// text reads a string or bytes.
func (r *Request) text(f *field, value []byte, p *Peer) bool {
	if f.kind == stringKind && !utf8.Valid(value) {
		return false
	}
	s := textOf(value)
	if p != nil {
		p.text(f.use, s)
		return true
	}
	switch f.use {
	case useID:
		r.ID = s
	case useMethod:
		r.Method = s
	case usePath:
		r.Path = s
	case useHost:
		r.Host = s
	case useScheme:
		r.Scheme = s
	case useQuery:
		r.Query = s
	case useFragment:
		r.Fragment = s
	case useProtocol:
		r.Protocol = s
	case useSNI:
		r.SNI = s
	case useBody:
		r.HasBody = r.HasBody || s != ""
	}
	return true
}

func (p *Peer) text(u use, s string) {
	switch u {
	case useService:
		p.Service = s
	case usePrincipal:
		p.Principal = s
	case useCertificate:
		p.Certificate = s
	case useIP:
		p.Address.IP = s
		p.Address.Other = p.Address.Other && s == ""
	case usePipePath:
		p.Address.Pipe = s
		p.Address.Other = p.Address.Other && s == ""
	}
}

// headerMap reads the raw headers.
func (r *Request) headerMap(b []byte) bool {
	if r.fromMap {
		return false
	}
	r.fromRaw = true
	for len(b) > 0 {
		f, entry, _, rest, ok := headerMapMessage.next(b)
		if !ok || f.message == nil {
			return false
		}
		b = rest
		h, ok := rawHeader(f.message, entry)
		if !ok {
			return false
		}
		r.Headers = append(r.Headers, h)
	}
	return true
}

// rawHeader is one HeaderValue, whose raw_value counts where it has one.
func rawHeader(m *message, b []byte) (h Header, ok bool) {
	var seen uint64
	var raw string
	for len(b) > 0 {
		f, value, _, rest, ok := m.next(b)
		if !ok || seen&f.single != 0 || !utf8.Valid(value) {
			return Header{}, false
		}
		seen |= f.single
		b = rest
		switch f.name {
		case "key":
			h.Name = textOf(value)
		case "value":
			h.Value = textOf(value)
		case "rawValue":
			raw = textOf(value)
		default:
			return Header{}, false
		}
	}
	if raw != "" {
		h.Value = raw
	}
	for i := range len(h.Name) {
		if c := h.Name[i]; c >= utf8.RuneSelf || c >= 'A' && c <= 'Z' {
			return Header{}, false
		}
	}
	return h, true
}

// headerEntry reads one entry of the map of headers.
func (r *Request) headerEntry(m *message, b []byte, depth int) bool {
	if r.fromRaw {
		return false
	}
	r.fromMap = true
	key, value, ok := mapEntry(m, b)
	if !ok || !utf8.Valid(value) {
		return false
	}
	r.Headers = append(r.Headers, Header{textOf(key), textOf(value)})
	return true
}

// mapEntry takes an entry of a map apart whose key is a string and whose value is
// bytes of some kind; the key is UTF-8, the value as it came.
func mapEntry(m *message, b []byte) (key, value []byte, ok bool) {
	var seen uint64
	for len(b) > 0 {
		f, part, _, rest, ok := m.next(b)
		if !ok || seen&f.single != 0 || f.wire != protowire.BytesType {
			return nil, nil, false
		}
		seen |= f.single
		b = rest
		if f == m.fields[1] {
			key = part
		} else {
			value = part
		}
	}
	return key, value, m.fields[1].kind == stringKind && utf8.Valid(key)
}

// textOf is bytes as a string that is a part of them.
func textOf(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
