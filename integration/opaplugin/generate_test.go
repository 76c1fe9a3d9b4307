package opaplugin_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// generator makes requests. The same seed and number make the same request.
type generator struct{ *rand.Rand }

func newGenerator(seed, number uint64) generator {
	return generator{rand.New(rand.NewPCG(seed, number))}
}

// once is true once in n times.
func (g generator) once(n int) bool { return g.IntN(n) == 0 }

func pick[T any](g generator, from ...T) T { return from[g.IntN(len(from))] }

// some joins up to n of the pieces.
func (g generator) some(n int, separator string, pieces ...string) string {
	list := make([]string, g.IntN(n+1))
	for i := range list {
		list[i] = pick(g, pieces...)
	}
	return strings.Join(list, separator)
}

// request is one that Envoy could send, and some that it would not.
func (g generator) request() *authv3.CheckRequest {
	a := &authv3.AttributeContext{
		Source:      &authv3.AttributeContext_Peer{Address: socket("10.0.0.7", uint32(1024+g.IntN(60000)))},
		Destination: &authv3.AttributeContext_Peer{Address: socket(address, port)},
	}
	if g.once(2) {
		a.Source.Principal = pick(g, "spiffe://shop.test/web", "web.shop.test", "CN=é")
	}
	if g.once(8) {
		a.Source.Service, a.Source.Labels = "web", map[string]string{"a": "", "b/c": "é"}
	}
	if g.once(2) {
		a.TlsSession = &authv3.AttributeContext_TLSSession{Sni: pick(g, "", "shop.test")}
	}
	if g.once(3) {
		a.MetadataContext = g.metadata()
	}
	if g.once(8) {
		a.RouteMetadataContext = g.metadata()
	}
	a.ContextExtensions = map[string]string{"decision": g.decision()}
	if g.once(4) {
		a.ContextExtensions["Some"] = "thing"
	}
	a.Request = &authv3.AttributeContext_Request{Http: g.http()}
	if g.once(2) {
		a.Request.Time = &timestamppb.Timestamp{Seconds: g.Int64N(4e9), Nanos: int32(g.IntN(1e9))}
	}
	if g.once(50) {
		a.Request = pick(g, nil, &authv3.AttributeContext_Request{}) // a TCP connection
	}
	return &authv3.CheckRequest{Attributes: a}
}

func socket(ip string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

func (g generator) metadata() *corev3.Metadata {
	m := &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{}}
	for range g.IntN(3) {
		s := &structpb.Struct{Fields: map[string]*structpb.Value{}}
		for range g.IntN(4) {
			s.Fields[pick(g, "a", "B", "é", "", "a.b")] = g.value(3)
		}
		m.FilterMetadata[pick(g, "envoy.filters.http.jwt_authn", "meshseal", "x")] = s
	}
	if g.once(4) {
		if typed, err := anypb.New(durationpb.New(90)); err == nil {
			m.TypedFilterMetadata = map[string]*anypb.Any{"typed": typed}
		}
	}
	return m
}

func (g generator) value(depth int) *structpb.Value {
	switch n := g.IntN(8); {
	case n == 0:
		return structpb.NewNullValue()
	case n == 1:
		return structpb.NewBoolValue(g.once(2))
	case n <= 3:
		return structpb.NewNumberValue(pick(g, 0, 1, -1, 0.1, 1e21, 1e-7, 123456789012345680, math.MaxFloat64,
			math.SmallestNonzeroFloat64, math.Copysign(0, -1), g.NormFloat64(), pick(g, 7, 7, 7, math.NaN(), math.Inf(1), math.Inf(-1))))
	case n <= 5 || depth == 0:
		return structpb.NewStringValue(pick(g, "", "text", "é\u2028<&>", "\x00\x1f", "\ufffd"))
	case n == 6:
		list := &structpb.ListValue{}
		for range g.IntN(3) {
			list.Values = append(list.Values, g.value(depth-1))
		}
		return structpb.NewListValue(list)
	}
	s := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for range g.IntN(3) {
		s.Fields[pick(g, "a", "b")] = g.value(depth - 1)
	}
	return structpb.NewStructValue(s)
}

func (g generator) http() *authv3.AttributeContext_HttpRequest {
	kind, body := g.body()
	h := &authv3.AttributeContext_HttpRequest{
		Id: fmt.Sprint(g.Uint64()), Method: pick(g, "GET", "POST", "PUT", "DELETE", "OPTIONS", "get", "BREW"),
		Path: g.path(), Host: pick(g, "shop.test", "SHOP.test:8443", "[::1]"), Scheme: pick(g, "https", "http"),
		Protocol: pick(g, "HTTP/1.1", "HTTP/2", "HTTP/1.0"), Size: pick(g, -1, int64(len(body))),
	}
	if kind == "application/grpc" {
		h.Path = pick(g, "/shop.Orders/Put", "/shop.Orders/Put", "/shop.Orders/Put", "//shop.Orders/Put", "/shop.Orders%2FPut", "/shop.Orders/Put?x=1",
			"/shop.Orders/PutAll", "/shop.Orders/Get", "/shop.Order/Put", "/shop.Orders", "/shop.Orders/Put/", h.Path)
	}
	if g.once(200) {
		h.Method = ""
	}
	if g.once(200) {
		h.Path = ""
	}
	if g.once(30) {
		h.Query, h.Fragment = "q=1", "f"
	}
	switch {
	case !utf8.ValidString(body) || g.once(3) || kind == "application/grpc" && !g.once(8):
		h.RawBody = []byte(body)
	default:
		h.Body = body
	}
	if g.once(50) {
		h.Body, h.RawBody = `{"in":"body"}`, []byte(`{"in":"raw_body"}`)
	}
	g.headers(h, kind, len(body))
	return h
}

func (g generator) path() string {
	path := "/" + g.some(4, "/", "v1", "orders", "7", "", "..", ".", "%2e%2E", "a%2Fb", "%20", "+", "é", "%C3%A9", "x;y=1", "%00", "a:b", "*", "%25", "A")
	if g.once(40) {
		path += pick(g, "%zz", "%", "%f", "%ff", "%C3", "%u0041", "#x?y=1")
	}
	if g.once(2) {
		path += "?" + g.some(4, "&", "a=1", "a=2", "b", "=c", "", "d=", "%61=1", "e=+%20", "f=%C3%A9", "g=é", "h[]=1", "h[]=2", "i=?", "j==", "A=1", "k=%00")
	}
	if g.once(40) {
		path += pick(g, "?a=1;b=2", "?;", "?a=%zz", "?%=1", "?a=%ff", "?%ff=1", "?a=%C3", "&a;b")
	}
	return path
}

// headers gives the request its headers, in one of Envoy's two forms.
func (g generator) headers(h *authv3.AttributeContext_HttpRequest, kind string, size int) {
	type pair struct{ name, value string }
	list := []pair{{":path", h.Path}, {":method", h.Method}, {"x-request-id", fmt.Sprint(g.Uint32())}}
	if kind != "" {
		list = append(list, pair{pick(g, "content-type", "content-type", "content-type", "content-type", "content-type", "content-type", "content-type", "Content-Type"), g.mediaType(kind)})
	}
	if g.once(2) {
		length := pick(g, fmt.Sprint(size), fmt.Sprint(size), fmt.Sprint(size), fmt.Sprint(size+1), fmt.Sprint(size+1000), "0", "-1")
		if g.once(12) {
			length = pick(g, "many", "+5", "", " 5", "0x10", "99999999999999999999", "1e3", "-99")
		}
		list = append(list, pair{"content-length", length})
	}
	if g.once(12) {
		list = append(list, pair{"x-envoy-auth-partial-body", pick(g, "true", "false", "false", "1")})
	}
	if g.once(8) {
		list = append(list, pair{"content-encoding", pick(g, "gzip", "identity", "br")})
	}
	if g.once(4) {
		list = append(list, pair{pick(g, "X-Odd-Case", "x_under_score", "x-empty", "cookie"), pick(g, "", "v", "a=1; b=2", "é")})
	}
	if !g.once(5) {
		h.Headers = map[string]string{}
		for _, p := range list {
			h.Headers[p.name] = p.value
		}
		return
	}
	if g.once(20) && kind != "" {
		list = append(list, pair{"content-type", pick(g, "application/json", "text/plain")})
	}
	h.HeaderMap = &corev3.HeaderMap{}
	for _, p := range list {
		h.HeaderMap.Headers = append(h.HeaderMap.Headers, &corev3.HeaderValue{Key: p.name, RawValue: []byte(p.value)})
	}
}

// mediaType is a content type for a body of this kind; now and then another
// one, or one that is odd.
func (g generator) mediaType(kind string) string {
	if kind == "multipart/form-data" {
		if g.once(40) {
			return kind + pick(g, "", "; boundary=", `; boundary=""`, "; boundary=B; boundary=B", "; boundary", "; charset=x")
		}
		kind += pick(g, "; boundary=B", `; boundary="B"`, "; Boundary=B; charset=utf-8")
	}
	switch {
	case g.once(30):
		return pick(g, strings.ToUpper(kind), strings.Title(kind)) //nolint:staticcheck // Title of ASCII
	case g.once(30):
		return pick(g, "text/plain; x=\""+kind+"\"", "application/x-www-form-urlencoded; x=\"application/json\"", "text/plain; x="+kind, "x"+kind)
	case g.once(30):
		return pick(g, kind+";;", kind+"; charset", kind+", text/plain", kind+"/", ";"+kind, kind+"; a=1; a=1")
	case g.once(30):
		return pick(g, "", "text/plain", "application/octet-stream", "application/x-protobuf", "multipart/mixed; boundary=B", "/")
	case strings.HasPrefix(kind, "application/grpc"):
		return kind + pick(g, "", "", "", "+proto", "+json", "-web", "-web-text")
	}
	return kind + pick(g, "", "", "", "; charset=utf-8", " ; x=1", "-patch+json", "+json")
}
