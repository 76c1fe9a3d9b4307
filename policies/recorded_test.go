package policies

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func recordedRequest(t *testing.T) *authv3.CheckRequest {
	t.Helper()
	metadata, err := structpb.NewStruct(map[string]any{"n": 1.5, "big": 1e21, "s": "NaN", "list": []any{true, nil, map[string]any{}}})
	if err != nil {
		t.Fatal(err)
	}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: &authv3.AttributeContext_Peer{
			Address:   &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: "10.0.0.2", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 40000}, Protocol: corev3.SocketAddress_UDP}}},
			Principal: "spiffe://shop.test/web", Labels: map[string]string{"a": "b"},
		},
		Destination: &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: "/run/x", Mode: 7}}}},
		Request: &authv3.AttributeContext_Request{
			Time: &timestamppb.Timestamp{Seconds: 1700000000, Nanos: 7},
			Http: &authv3.AttributeContext_HttpRequest{
				Id: "1", Method: "GET", Path: "/a/b?c=d", Host: "orders", Scheme: "https", Protocol: "HTTP/2", Size: -1,
				Headers: map[string]string{"x-a": "1,2", ":path": "/a"}, RawBody: []byte{0, 255},
			},
		},
		ContextExtensions:    map[string]string{"k": "v"},
		MetadataContext:      &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"f": metadata, "empty": {Fields: map[string]*structpb.Value{}}}},
		RouteMetadataContext: &corev3.Metadata{TypedFilterMetadata: map[string]*anypb.Any{"t": {TypeUrl: "x/y", Value: []byte("z")}}},
		TlsSession:           &authv3.AttributeContext_TLSSession{Sni: "orders.test"},
	}}
}

// A record's input is the document that the policy saw, so the request that is
// made of it gives the same document again.
func TestRecordedInputIsTheRequestAgain(t *testing.T) {
	want := recordedRequest(t)
	document, err := Input(want, Facts{Workload: "web"})
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Recorded(data)
	if err != nil || !proto.Equal(got, want) {
		t.Errorf("%v\ngot  %v\nwant %v", err, got, want)
	}
}

func TestRecordedReadsWhatIsRefused(t *testing.T) {
	want := recordedRequest(t)
	want.Attributes.Request.Http.Path = "/%zz"
	if _, err := Input(want, Facts{}); !errors.Is(err, ErrInput) {
		t.Fatal(err)
	}
	data, err := json.Marshal(Unparsed(want, Facts{Workload: "web"}))
	if err != nil {
		t.Fatal(err)
	}
	got, err := Recorded(data)
	if err != nil || !proto.Equal(got, want) {
		t.Errorf("%v\ngot  %v\nwant %v", err, got, want)
	}
}

func TestRecordedRefusesWhatIsNoRecord(t *testing.T) {
	for name, input := range map[string]string{
		"input:":                              `[`,
		"it has no attributes":                `{"version": {}}`,
		".nothing: ":                          `{"version": {}, "attributes": {"nothing": 1}}`,
		"input.attributes.source: a value of": `{"version": {}, "attributes": {"source": []}}`,
		".size: strconv":                      `{"version": {}, "attributes": {"request": {"http": {"size": 1.5}}}}`,
		".headers.a: a value of":              `{"version": {}, "attributes": {"request": {"http": {"headers": {"a": 1}}}}}`,
		".rawBody: illegal base64":            `{"version": {}, "attributes": {"request": {"http": {"rawBody": "!"}}}}`,
		".portValue: strconv":                 `{"version": {}, "attributes": {"source": {"address": {"socketAddress": {"portValue": -1}}}}}`,
		".filterMetadata.f.n: 1e999 is no":    `{"version": {}, "attributes": {"metadataContext": {"filterMetadata": {"f": {"n": 1e999}}}}}`,
		".headers: not an object by names":    `{"version": {}, "attributes": {"request": {"http": {"headers": "a"}}}}`,
	} {
		if m, err := Recorded([]byte(input)); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, %v; want %q", input, m, err, name)
		}
	}
}
