package opaplugin_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa-envoy-plugin/envoyauth"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/logging"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/testing/protocmp"

	"meshseal/policies"
)

const (
	requests = 10_000
	seed     = 20260301
)

// pair is both, with the same policy.
type pair struct {
	program *policies.Program // with the descriptor set
	files   *protoregistry.Files
	plugin  authv3.AuthorizationClient
	server  *server
	allowed int // answers of sameAnswer
	denied  int // those by the policy
}

func newPair(t testing.TB, rego, path string) *pair {
	t.Helper()
	set := descriptorSet(t)
	program, err := policies.Compile([]policies.File{{Path: "policies/policy.rego", Data: []byte(rego)}, {Path: "policies/shop.pb", Data: set}}, path)
	if err != nil {
		t.Fatal(err)
	}
	return &pair{
		program: program, files: protoSet(t, set),
		plugin: authv3.NewAuthorizationClient(startPlugin(t, rego, path, set)), server: startServer(t, rego, path),
	}
}

// sameInput compares the input documents of a request. It returns what the
// documents should be, and why they are not the plugin's; refused stands for a
// request of which there is none.
func (p *pair) sameInput(req *authv3.CheckRequest) (rows []row, difference string) {
	r := read(req)
	want := "refused"
	theirs, err := pluginInput(r.req, p.files)
	if err == nil && !r.deny {
		if original, err := envoyauth.RequestToInput(req, logging.NewNoOpLogger(), nil, true); err == nil {
			theirs["attributes"] = original["attributes"]
		}
		want = document(theirs)
	}
	got := "refused"
	ours, oursErr := p.program.Input(req, policies.Facts{SPIFFEID: "spiffe://shop.test/web"})
	if oursErr == nil {
		delete(ours, "meshseal")
		got = document(ours)
	}
	if got == want {
		return r.rows, ""
	}
	return r.rows, fmt.Sprintf("the plugin: %v, meshseal: %v\n%s", err, oursErr, cmp.Diff(want, got))
}

// document is an input document as Rego has it.
func document(d map[string]any) string {
	v, err := ast.InterfaceToValue(d)
	if err != nil {
		return "refused"
	}
	return v.String()
}

// sameAnswer asks both. decision is the JSON that the policy decides. The
// answers to a request that meshseal reads in another way are compared without
// the hash of the input.
func (p *pair) sameAnswer(t testing.TB, req *authv3.CheckRequest, decision string) (rows []row, difference string) {
	t.Helper()
	req = proto.Clone(req).(*authv3.CheckRequest)
	if source := req.GetAttributes().GetSource(); source != nil {
		source.Certificate = p.server.certificate
	}
	forwarded(req.GetAttributes().GetRequest().GetHttp())
	ours, err := p.server.check(req)
	if err != nil {
		t.Fatalf("meshseal answered with a gRPC error: %v", err)
	}
	r := read(req)
	theirs, err := p.plugin.Check(context.Background(), r.req)
	e := expect(r, decision, theirs, err)
	switch {
	case ours.GetOkResponse() != nil:
		p.allowed++
	case ours.GetStatus().GetMessage() == "POLICY_DENIED":
		p.denied++
	}
	want, got := normal(e.answer), normal(ours)
	if slices.ContainsFunc(r.rows, func(w row) bool { return w != rawHeaders }) {
		delete(want.GetDynamicMetadata().GetFields(), "input")
		delete(got.GetDynamicMetadata().GetFields(), "input")
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		return e.rows, fmt.Sprintf("the plugin: %v, %v\n%s", theirs, err, diff)
	}
	return e.rows, ""
}

func TestGeneratedRequests(t *testing.T) {
	p := newPair(t, policy, entry)
	met := map[string]int{}
	for n := range uint64(requests) {
		req := newGenerator(seed, n).request()
		inputRows, difference := p.sameInput(req)
		if difference != "" {
			t.Errorf("request %d: input: %s\n%s", n, difference, protojson.Format(req))
		}
		if req.GetAttributes().GetRequest().GetHttp() == nil {
			continue // a TCP connection has another chain than the one of the mesh here
		}
		answerRows, difference := p.sameAnswer(t, req, decisionOf(req))
		if difference != "" {
			t.Errorf("request %d: answer: %s\n%s", n, difference, protojson.Format(req))
		}
		p.sort(req, met)
		for _, w := range append(inputRows, answerRows...) {
			met[w.name]++
		}
	}
	met["allowed"], met["denied by policy"] = p.allowed, p.denied
	for _, name := range slices.Sorted(maps.Keys(met)) {
		t.Logf("%6d %s", met[name], name)
	}
	for name, least := range enough {
		if met[name] < least {
			t.Errorf("%d requests are %q, fewer than %d: the generator has lost them", met[name], name, least)
		}
	}
}

// forwarded adds the header without which Envoy finds no route, and which it
// sets itself.
func forwarded(h *authv3.AttributeContext_HttpRequest) {
	const name = "x-forwarded-proto"
	switch {
	case h == nil:
	case h.GetHeaderMap() != nil:
		h.HeaderMap.Headers = append(h.HeaderMap.Headers, &corev3.HeaderValue{Key: name, RawValue: []byte("https")})
	default:
		if h.Headers == nil {
			h.Headers = map[string]string{}
		}
		h.Headers[name] = "https"
	}
}

// enough is how many requests of each sort there have to be, and of each
// difference that is not for fixed cases alone.
var enough = func() map[string]int {
	out := map[string]int{
		"parsed application/json": 500, "parsed application/grpc": 300, "parsed multipart/form-data": 300, "parsed application/x-www-form-urlencoded": 300,
		"truncated": 300, "refused": 500, "allowed": 1000, "denied by policy": 1000,
	}
	for _, w := range rows {
		if answerCases[w.name] != nil || inputCases[w.name] != nil && w != noAttributes && w != largeMessage && w != manyParts {
			out[w.name] = 5
		}
	}
	return out
}()

// sort counts what came of a request.
func (p *pair) sort(req *authv3.CheckRequest, met map[string]int) {
	r := read(req)
	input, err := p.program.Input(req, policies.Facts{})
	switch {
	case err != nil:
		met["refused"]++
	case input["truncated_body"] == true:
		met["truncated"]++
	case input["parsed_body"] != nil:
		met["parsed "+r.kind]++
	}
}

// decisionOf is what the policy above decides about a request.
func decisionOf(req *authv3.CheckRequest) string {
	return req.GetAttributes().GetContextExtensions()["decision"]
}
