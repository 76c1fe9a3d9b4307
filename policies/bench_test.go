package policies

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"meshseal/request"
)

// lookup is a policy that looks its caller up among the workloads in data.
const benchPolicy = `package envoy.authz

import input.attributes.request.http

default allow := false

allow if {
	caller := data.workloads[input.meshseal.workload]
	some grant in caller.calls
	grant.route == input.meshseal.route
	http.method in grant.methods
	startswith(http.path, grant.prefix)
}
`

func benchProgram(t testing.TB, module string) *Program {
	workloads := map[string]any{}
	for i := range 1000 {
		workloads[fmt.Sprintf("w-%d", i)] = object{"calls": []any{
			object{"route": "other", "methods": []string{"GET"}, "prefix": "/"},
			object{"route": "orders", "methods": []string{"GET", "POST"}, "prefix": "/v1/orders"},
		}}
	}
	data, err := json.Marshal(object{"workloads": workloads})
	if err != nil {
		t.Fatal(err)
	}
	return mustCompile(t, module, string(data))
}

// benchRequest is a request as Envoy describes one, with 15 headers.
func benchRequest() (*request.Request, *Facts) {
	h := &authv3.AttributeContext_HttpRequest{Id: "17", Method: "GET", Path: "/v1/orders/7?state=open", Host: "shop.test", Scheme: "https", Protocol: "HTTP/2", Size: -1, HeaderMap: &corev3.HeaderMap{}}
	for i := range 15 {
		h.HeaderMap.Headers = append(h.HeaderMap.Headers, &corev3.HeaderValue{Key: fmt.Sprintf("x-header-%d", i), RawValue: []byte("some value of a header")})
	}
	m := &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source:  &authv3.AttributeContext_Peer{Certificate: "-----BEGIN CERTIFICATE-----", Principal: "spiffe://shop.test/web"},
		Request: &authv3.AttributeContext_Request{Http: h},
	}}
	r := &request.Request{}
	r.From(m)
	return r, &Facts{
		SPIFFEID: "spiffe://shop.test/w-500", TrustDomain: "shop.test", Workload: "w-500", Proxy: "orders-1", Direction: "inbound",
		Digest: "sha256:0123456789abcdef", Evidence: "peer-x509-svid", Listener: "inbound", Route: "orders", Cluster: "orders",
	}
}

func BenchmarkAppendKey(b *testing.B) {
	p := benchProgram(b, benchPolicy)
	r, f := benchRequest()
	key, ok := p.AppendKey(nil, r, f, 1)
	if !ok {
		b.Fatal(p.Cacheable())
	}
	b.ReportAllocs()
	for b.Loop() {
		key, _ = p.AppendKey(key[:0], r, f, 1)
	}
}

func BenchmarkInput(b *testing.B) {
	p := benchProgram(b, benchPolicy)
	r, f := benchRequest()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Input(r.Message(), *f); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkInputOf(b *testing.B) {
	p := benchProgram(b, benchPolicy)
	r, f := benchRequest()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.InputOf(r, f); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEvalOfLookup(b *testing.B) {
	p := benchProgram(b, benchPolicy)
	r, f := benchRequest()
	input, err := p.InputOf(r, f)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if result, err := p.Eval(context.Background(), input); err != nil || !result.Allowed {
			b.Fatal(result, err)
		}
	}
}
