package request_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"meshseal/request"
	"meshseal/request/requesttest"
)

// decoded is a request as decoding the whole message reads it.
func decoded(wire []byte) (*request.Request, error) {
	m, r := new(authv3.CheckRequest), new(request.Request)
	if err := proto.Unmarshal(wire, m); err != nil {
		return r, err
	}
	r.From(m)
	return r, nil
}

// agrees holds that reading the bytes gives what decoding them gives.
func agrees(t testing.TB, wire []byte) {
	t.Helper()
	want, wantErr := decoded(slices.Clone(wire))
	got := new(request.Request)
	err := got.Read(wire)
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("read: %v, decoded: %v\n%x", err, wantErr, wire)
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(request.Request{}), cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("decoded (-), read (+):\n%s\n%x", diff, wire)
	}
	if want.Fault() != got.Fault() {
		t.Fatalf("fault %q, decoded %q", got.Fault(), want.Fault())
	}
	if diff := cmp.Diff(want.Message(), got.Message(), protocmp.Transform(), cmpopts.EquateNaNs()); err == nil && diff != "" {
		t.Fatalf("message, decoded (-), read (+):\n%s", diff)
	}
}

// envoys is a request in the form that Envoy sends.
func envoys() *authv3.CheckRequest {
	address := func(ip string, port uint32) *corev3.Address {
		return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
		}}}
	}
	headers := &corev3.HeaderMap{}
	for name, value := range map[string]string{
		":authority": "orders.shop.test", ":path": "/api/orders/17?full=1&page=2", ":method": "GET", ":scheme": "https",
		"user-agent": "Mozilla/5.0 (X11; Linux x86_64)", "accept": "application/json", "accept-encoding": "gzip, deflate",
		"accept-language": "en-US,en;q=0.5", "cookie": "session=" + strings.Repeat("c", 60), "x-request-id": "6f1c7e0a-3b0f-4a55-9a52-0d3d6a0c3f11",
		"x-forwarded-proto": "https", "x-forwarded-for": "10.0.0.7", "referer": "https://shop.test/", "cache-control": "no-cache", "x-tenant": "blue",
	} {
		headers.Headers = append(headers.Headers, &corev3.HeaderValue{Key: name, RawValue: []byte(value)})
	}
	slices.SortFunc(headers.Headers, func(a, b *corev3.HeaderValue) int { return strings.Compare(a.Key, b.Key) })
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: &authv3.AttributeContext_Peer{
			Address: address("127.0.0.1", 40312), Principal: "spiffe://shop.test/web",
			Certificate: "-----BEGIN%20CERTIFICATE-----%0A" + strings.Repeat("MIIBszCCAVmgAwIBAgIQ", 60) + "%0A-----END%20CERTIFICATE-----%0A",
		},
		Destination: &authv3.AttributeContext_Peer{Address: address("127.0.0.1", 8443), Principal: "spiffe://shop.test/orders"},
		Request: &authv3.AttributeContext_Request{Time: &timestamppb.Timestamp{Seconds: 1767323045, Nanos: 12345}, Http: &authv3.AttributeContext_HttpRequest{
			Id: "12345678901234567890", Method: "GET", HeaderMap: headers, Path: "/api/orders/17?full=1&page=2",
			Host: "orders.shop.test", Scheme: "https", Protocol: "HTTP/2", Size: -1,
		}},
		MetadataContext: &corev3.Metadata{}, RouteMetadataContext: &corev3.Metadata{},
		TlsSession: &authv3.AttributeContext_TLSSession{Sni: "orders.shop.test"},
	}}
}

func wireOf(t testing.TB, m proto.Message) []byte {
	t.Helper()
	wire, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

// TestReadAgrees: forms that Envoy sends, and forms that it does not.
func TestReadAgrees(t *testing.T) {
	change := func(f func(*authv3.AttributeContext)) []byte {
		m := envoys()
		f(m.Attributes)
		return wireOf(t, m)
	}
	honest := wireOf(t, envoys())
	for name, wire := range map[string][]byte{
		"nothing":        nil,
		"no attributes":  wireOf(t, &authv3.CheckRequest{}),
		"as Envoy sends": honest,
		"a map of headers": change(func(a *authv3.AttributeContext) {
			a.Request.Http.HeaderMap, a.Request.Http.Headers = nil, map[string]string{"b": "2", "a": "1", "": "x"}
		}),
		"headers in two forms": change(func(a *authv3.AttributeContext) { a.Request.Http.Headers = map[string]string{"b": "2"} }),
		"a name in upper case": change(func(a *authv3.AttributeContext) { a.Request.Http.HeaderMap.Headers[3].Key = "X-Upper" }),
		"a value that is not UTF-8": change(func(a *authv3.AttributeContext) {
			a.Request.Http.HeaderMap.Headers[3].RawValue = []byte("\xff")
		}),
		"a value twice": change(func(a *authv3.AttributeContext) {
			a.Request.Http.HeaderMap.Headers[3].Value = "the other form"
		}),
		"a header twice": change(func(a *authv3.AttributeContext) {
			a.Request.Http.HeaderMap.Headers = append(a.Request.Http.HeaderMap.Headers, a.Request.Http.HeaderMap.Headers[4])
		}),
		"a body":           change(func(a *authv3.AttributeContext) { a.Request.Http.RawBody = []byte("\xff") }),
		"a pipe":           change(func(a *authv3.AttributeContext) { a.Source.Address = pipe("/run/x.sock") }),
		"an empty pipe":    change(func(a *authv3.AttributeContext) { a.Source.Address = pipe("") }),
		"an empty address": change(func(a *authv3.AttributeContext) { a.Source.Address = &corev3.Address{} }),
		"an internal address": change(func(a *authv3.AttributeContext) {
			a.Source.Address = &corev3.Address{Address: &corev3.Address_EnvoyInternalAddress{EnvoyInternalAddress: &corev3.EnvoyInternalAddress{EndpointId: "x"}}}
		}),
		"metadata": change(func(a *authv3.AttributeContext) { a.MetadataContext = metadata(t) }),
		"labels and extensions": change(func(a *authv3.AttributeContext) {
			a.Source.Labels, a.ContextExtensions = map[string]string{"a": "b"}, map[string]string{"c": "d", "e": ""}
		}),
		"a connection":                       change(func(a *authv3.AttributeContext) { a.Request = nil }),
		"attributes twice":                   append(slices.Clone(honest), honest...),
		"a field that is no one's":           protowire.AppendVarint(protowire.AppendTag(slices.Clone(honest), 9, protowire.VarintType), 1),
		"cut off":                            honest[:len(honest)-3],
		"another type":                       protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1),
		"a group":                            protowire.AppendTag(protowire.AppendTag(nil, 1, protowire.StartGroupType), 1, protowire.EndGroupType),
		"text that is not UTF-8":             []byte(strings.Replace(string(honest), "GET", "G\xffT", 1)),
		"text of metadata that is not UTF-8": []byte(strings.Replace(string(change(func(a *authv3.AttributeContext) { a.MetadataContext = metadata(t) })), "find me", "find \xffe", 1)),
	} {
		t.Run(name, func(t *testing.T) { agrees(t, wire) })
	}
}

func pipe(path string) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path}}}
}

func metadata(t testing.TB) *corev3.Metadata {
	s, err := structpb.NewStruct(map[string]any{"text": "find me", "n": 1.5, "list": []any{true, nil, map[string]any{"x": "y"}}})
	if err != nil {
		t.Fatal(err)
	}
	return &corev3.Metadata{
		FilterMetadata:      map[string]*structpb.Struct{"f": s, "g": {}},
		TypedFilterMetadata: map[string]*anypb.Any{"t": {TypeUrl: "type.googleapis.com/x", Value: []byte{1, 0xff}}},
	}
}

// FuzzReadAgrees: for any bytes.
func FuzzReadAgrees(f *testing.F) {
	f.Add(wireOf(f, envoys()))
	full := envoys()
	full.Attributes.MetadataContext = metadata(f)
	full.Attributes.Source.Address = pipe("/run/x.sock")
	f.Add(wireOf(f, full))
	f.Fuzz(func(t *testing.T, wire []byte) { agrees(t, wire) })
}

// TestReadAgreesOnDamage changes one byte of a request, or a few.
func TestReadAgreesOnDamage(t *testing.T) {
	full := envoys()
	full.Attributes.MetadataContext, full.Attributes.ContextExtensions = metadata(t), map[string]string{"a": "b"}
	random := rand.New(rand.NewPCG(1, 2))
	whole := wireOf(t, full)
	for range 20_000 {
		wire := slices.Clone(whole)
		for range 1 + random.IntN(3) {
			wire[random.IntN(len(wire))] = byte(random.IntN(256))
		}
		agrees(t, wire)
	}
}

// TestReadAllocatesNothing: once there is room for the headers.
func TestReadAllocatesNothing(t *testing.T) {
	wire, r := wireOf(t, envoys()), new(request.Request)
	if n := testing.AllocsPerRun(100, func() {
		if err := r.Read(wire); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkRead(b *testing.B) {
	wire, r := wireOf(b, envoys()), new(request.Request)
	b.SetBytes(int64(len(wire)))
	b.ReportAllocs()
	for b.Loop() {
		if err := r.Read(wire); err != nil {
			b.Fatal(err)
		}
	}
}

// TestReadAgreesOnAnyMessage: whatever fields are set.
func TestReadAgreesOnAnyMessage(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 5000 {
		agrees(t, wireOf(t, requesttest.Random(random)))
	}
}
