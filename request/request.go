// Package request reads what Envoy asks (envoy.service.auth.v3.CheckRequest)
// from the bytes that it sent: the fields by which a request is judged, without
// decoding the rest, and the document by which it is recorded.
//
// Whatever a field is read from, it has the value that decoding the whole
// message would give it; what cannot be read that way is decoded as a whole.
package request

import (
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"
)

// Request is one question of Envoy. Its strings are parts of the bytes that Read
// was given: they are good for as long as those stay as they are. The zero
// Request has no attributes, and is malformed.
type Request struct {
	// Attributes: there is something to judge at all.
	Attributes bool
	// HTTP: it is about an HTTP request; else about a connection.
	HTTP bool

	// Of the HTTP request; empty for a connection.
	ID, Method, Path, Host, Scheme, Query, Fragment, Protocol string
	Size                                                      int64
	// HasBody: Envoy sent a body, of one byte or more.
	HasBody bool
	// Headers are in the order in which they came, those of one name one after
	// the other as they were sent; names are in lower case.
	Headers []Header

	Source, Destination Peer
	// SNI is the server name of the TLS connection.
	SNI string

	scanned bool // the fields are from wire, not from message
	// fromRaw and fromMap say from which form of headers Headers are.
	fromRaw, fromMap bool

	wire    []byte
	message *authv3.CheckRequest // of wire, with normal headers; nil until it is asked for
	fault   string
}

// Header is one value of one header.
type Header struct{ Name, Value string }

// Peer is one end of the connection, as Envoy describes it. Nothing of it is
// proven.
type Peer struct {
	Address     Address
	Certificate string // URL-encoded PEM
	Principal   string
	Service     string
}

// Address is where a peer is. The zero Address is none.
type Address struct {
	IP   string // of a socket address, as Envoy writes it
	Port uint32
	Pipe string // path of a Unix socket
	// Other: there is one, and it is of another kind or says nothing.
	Other bool
}

// Read makes r the request of these bytes; what r was before is gone. An error
// means that they are no CheckRequest.
func (r *Request) Read(wire []byte) error {
	*r = Request{wire: wire, Headers: r.Headers[:0]}
	if r.scan(wire) {
		r.scanned = true
		return nil
	}
	m := new(authv3.CheckRequest)
	if err := proto.Unmarshal(wire, m); err != nil {
		*r = Request{wire: wire, Headers: r.Headers[:0]}
		return err
	}
	r.From(m)
	return nil
}

// From makes r the request of a decoded message, which r may change and then
// keeps.
func (r *Request) From(m *authv3.CheckRequest) {
	*r = Request{message: m, Headers: r.Headers[:0]}
	a := m.GetAttributes()
	if a == nil {
		return
	}
	r.Attributes = true
	r.Source, r.Destination = peer(a.GetSource()), peer(a.GetDestination())
	r.SNI = a.GetTlsSession().GetSni()
	h := a.GetRequest().GetHttp()
	if h == nil {
		return
	}
	r.HTTP = true
	r.ID, r.Method, r.Path, r.Host, r.Scheme = h.GetId(), h.GetMethod(), h.GetPath(), h.GetHost(), h.GetScheme()
	r.Query, r.Fragment, r.Protocol, r.Size = h.GetQuery(), h.GetFragment(), h.GetProtocol(), h.GetSize()
	r.HasBody = h.GetBody() != "" || len(h.GetRawBody()) > 0
	r.Headers, r.fault = normal(h, r.Headers)
}

func peer(p *authv3.AttributeContext_Peer) Peer {
	out := Peer{Certificate: p.GetCertificate(), Principal: p.GetPrincipal(), Service: p.GetService()}
	if a := p.GetAddress(); a != nil {
		s := a.GetSocketAddress()
		out.Address = Address{IP: s.GetAddress(), Port: s.GetPortValue(), Pipe: a.GetPipe().GetPath()}
		out.Address.Other = out.Address == Address{}
	}
	return out
}

// normal moves the headers of an HTTP request from header_map to headers, where
// policies and records look for them: names in lower case, several values joined
// by a comma, as Envoy does it. It appends each value by itself to list.
//
// The filters that the build inserts send raw headers, because in the other form
// Envoy writes "!" for each byte that is not UTF-8: the policy would judge
// another value than the backend gets. A request with such a value is denied; its
// record shows U+FFFD in the place of the bytes.
func normal(h *authv3.AttributeContext_HttpRequest, list []Header) (headers []Header, fault string) {
	if h.GetHeaderMap() == nil {
		for _, name := range slices.Sorted(maps.Keys(h.GetHeaders())) {
			list = append(list, Header{name, h.GetHeaders()[name]})
		}
		return list, ""
	}
	if len(h.GetHeaders()) > 0 {
		fault = "the headers arrived in two forms"
	}
	raw := h.GetHeaderMap().GetHeaders()
	h.HeaderMap, h.Headers = nil, make(map[string]string, len(raw))
	for _, v := range raw {
		name, value := strings.ToLower(v.GetKey()), v.GetValue()
		if len(v.GetRawValue()) > 0 {
			value = string(v.GetRawValue())
		}
		if !utf8.ValidString(value) {
			value = strings.ToValidUTF8(value, "\uFFFD")
			fault = "the header \"" + name + "\" is not UTF-8"
		}
		list = append(list, Header{name, value})
		if before, ok := h.Headers[name]; ok {
			value = before + "," + value
		}
		h.Headers[name] = value
	}
	return list, fault
}

// Fault is what is wrong with the request although it could be read; empty if
// nothing is.
func (r *Request) Fault() string { return r.fault }

// Message is the whole request, its headers in the normal form: in headers, not
// in header_map. It is decoded once, is no part of the bytes, and belongs to r.
func (r *Request) Message() *authv3.CheckRequest {
	if r.message == nil {
		r.message = new(authv3.CheckRequest)
		if err := proto.Unmarshal(r.wire, r.message); err != nil {
			r.message = new(authv3.CheckRequest) // as Read said
		} else if h := r.message.GetAttributes().GetRequest().GetHttp(); h != nil {
			normal(h, nil)
		}
	}
	return r.message
}

// Value is the i-th value of a header, counted from 0; name is in lower case.
func (r *Request) Value(name string, i int) (string, bool) {
	for _, h := range r.Headers {
		if h.Name != name {
			continue
		}
		if i == 0 {
			return h.Value, true
		}
		i--
	}
	return "", false
}

// Header are all values of a header, joined by a comma as a policy sees them;
// name is in lower case.
func (r *Request) Header(name string) (string, bool) {
	value, ok := r.Value(name, 0)
	if _, more := r.Value(name, 1); more {
		value = joined(slices.DeleteFunc(slices.Clone(r.Headers), func(h Header) bool { return h.Name != name }))
	}
	return value, ok
}
