package policies

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"pgregory.net/rapid"
)

// request makes an HTTP request as Envoy describes it: headers are pairs of
// name and value.
func asked(path, body string, headers ...string) *authv3.CheckRequest {
	h := map[string]string{}
	for i := 0; i < len(headers); i += 2 {
		h[headers[i]] = headers[i+1]
	}
	return httpRequest(&authv3.AttributeContext_HttpRequest{Method: "POST", Path: path, Headers: h, Body: body})
}

func httpRequest(http *authv3.AttributeContext_HttpRequest) *authv3.CheckRequest {
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{Http: http}}}
}

// The input documents in testdata/plugin are those that opa-envoy-plugin
// v1.14.1-envoy made of the requests beside them.
func TestInputIsThePluginsDocument(t *testing.T) {
	files, err := filepath.Glob("testdata/plugin/*.request.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no requests: %v", err)
	}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".request.json")
		t.Run(name, func(t *testing.T) {
			req := &authv3.CheckRequest{}
			if err := protojson.Unmarshal(read(t, f), req); err != nil {
				t.Fatal(err)
			}
			got, err := Input(req, Facts{SPIFFEID: "spiffe://shop.test/web"})
			if err != nil {
				t.Fatal(err)
			}
			delete(got, "meshseal")
			var want any
			if err := json.Unmarshal(read(t, strings.Replace(f, ".request.", ".input.", 1)), &want); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, throughJSON(t, got)); diff != "" {
				t.Errorf("- plugin's, + ours:\n%s", diff)
			}
			text, err := json.Marshal(got)
			if err != nil {
				t.Fatal(err)
			}
			if again := ast.MustParseTerm(string(text)); ast.MustInterfaceToValue(got).Compare(again.Value) != 0 {
				t.Errorf("the document and its JSON differ for a policy:\n%v\n%v", got, again)
			}
		})
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func throughJSON(t testing.TB, v any) (out any) {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// A request that the policy and the backend might read differently is denied.
func TestInputRefusesAmbiguity(t *testing.T) {
	const (
		jsonCT = "application/json"
		form   = "application/x-www-form-urlencoded"
	)
	multi := func(parts string) string { return strings.ReplaceAll(parts, "\n", "\r\n") }
	for name, req := range map[string]*authv3.CheckRequest{
		"nil":                         nil,
		"no attributes":               {},
		"malformed escape in path":    asked("/a%2", ""),
		"path is not UTF-8":           asked("/%ff", ""),
		"malformed escape in query":   asked("/?a=%zz", ""),
		"semicolon in query":          asked("/?a=1;b=2", ""),
		"query is not UTF-8":          asked("/?a=%ff", ""),
		"name in query is not UTF-8":  asked("/?%ff=1", ""),
		"endless query":               asked("/?"+strings.Repeat("a&", 20_000), ""),
		"JSON cut, chunked":           asked("/", `{"a": [1`, "content-type", jsonCT),
		"JSON twice":                  asked("/", `{} {}`, "content-type", jsonCT),
		"JSON with a name twice":      asked("/", `{"role":"user","role":"admin"}`, "content-type", jsonCT),
		"JSON with a name twice, raw": httpRequest(&authv3.AttributeContext_HttpRequest{Headers: map[string]string{"content-type": jsonCT}, RawBody: []byte(`[{"a":{"b":1,"\u0062":2}}]`)}),
		"JSON is not UTF-8":           httpRequest(&authv3.AttributeContext_HttpRequest{Headers: map[string]string{"content-type": jsonCT}, RawBody: []byte("\"\xff\"")}),
		"JSON too deep":               asked("/", strings.Repeat("[", maxDepth+2)+strings.Repeat("]", maxDepth+2), "content-type", jsonCT),
		"JSON endlessly deep":         asked("/", strings.Repeat("[", 1<<20), "content-type", jsonCT),
		"JSON with a huge exponent":   asked("/", `{"n": 1e999999999}`, "content-type", jsonCT),
		"JSON with a long number":     asked("/", `{"n": 1.`+strings.Repeat("9", 1_000_000)+`}`, "content-type", jsonCT),
		"JSON in capitals":            asked("/", `{"a"`, "content-type", "Application/JSON"),
		"JSON that is empty space":    asked("/", ` `, "content-type", jsonCT),
		"form malformed":              asked("/", `a=%zz`, "content-type", form),
		"type twice, joined":          asked("/", `{}`, "content-type", jsonCT+","+form),
		"type malformed":              asked("/", `{}`, "content-type", jsonCT+"; a; b"),
		"length is no number":         asked("/", `{}`, "content-type", jsonCT, "content-length", "2 2"),
		"multipart cut":               asked("/", multi("--B\nContent-Disposition: form-data; name=\"a\"\n\nx"), "content-type", "multipart/form-data; boundary=B"),
		"multipart cut in a header":   asked("/", multi("--B\nContent-Disposition: form-data; name=\"a\"\n\nx--B--\n--B\nContent-Dis"), "content-type", "multipart/form-data; boundary=B"),
		"multipart, another line end": asked("/", multi("--B\nContent-Disposition: form-data; name=\"a\"\n\nx")+"\n--B--\n"+multi("\n--B\nContent-Dis"), "content-type", "multipart/form-data; boundary=B"),
		"multipart, empty boundary":   asked("/", multi("--\nContent-Disposition: form-data; name=\"a\"\n\nx\n----"), "content-type", `multipart/form-data; boundary=""`),
		"multipart of another":        asked("/", "text", "content-type", "multipart/form-data; boundary=B"),
		"multipart, malformed JSON":   asked("/", multi("--B\nContent-Disposition: form-data; name=\"a\"\nContent-Type: Application/JSON\n\n{\n--B--\n"), "content-type", "multipart/form-data; boundary=B"),
		"multipart of many parts":     asked("/", strings.Repeat(multi("--B\nContent-Disposition: form-data; name=\"a\"\n\nx\n"), maxParts+1)+"--B--", "content-type", "multipart/form-data; boundary=B"),
		"type twice, raw headers": httpRequest(&authv3.AttributeContext_HttpRequest{Body: `{}`, HeaderMap: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
			{Key: "content-type", RawValue: []byte("text/plain")}, {Key: "Content-Type", RawValue: []byte(jsonCT)},
		}}}),
	} {
		t.Run(name, func(t *testing.T) {
			in, err := Input(req, Facts{})
			if !errors.Is(err, ErrInput) || in != nil {
				t.Errorf("got %v, %v; want ErrInput", in, err)
			}
			if err != nil && len(err.Error()) > 400 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
		})
	}
}

// Where the plugin looks at one form of the headers only, both are read.
func TestInputBody(t *testing.T) {
	rawHeaders := func(kv ...string) *corev3.HeaderMap {
		m := &corev3.HeaderMap{}
		for i := 0; i < len(kv); i += 2 {
			m.Headers = append(m.Headers, &corev3.HeaderValue{Key: kv[i], RawValue: []byte(kv[i+1])})
		}
		return m
	}
	for name, c := range map[string]struct {
		req  *authv3.CheckRequest
		body any
		cut  bool
	}{
		"type in capitals":    {asked("/", `{"a":1}`, "content-type", "APPLICATION/json"), map[string]any{"a": 1.0}, false},
		"type in a parameter": {asked("/", `a=1`, "content-type", "application/x-www-form-urlencoded; x=\"application/json\""), map[string]any{"a": []any{"1"}}, false},
		"type in another":     {asked("/", `{"a":1}`, "content-type", "text/plain; x=\"application/json\""), nil, false},
		"type unreadable":     {asked("/", `{"a":1}`, "content-type", "nonsense//"), nil, false},
		"raw headers":         {httpRequest(&authv3.AttributeContext_HttpRequest{Body: `[1]`, HeaderMap: rawHeaders("Content-Type", "application/json")}), []any{1.0}, false},
		"raw headers, cut":    {httpRequest(&authv3.AttributeContext_HttpRequest{Body: `[1`, HeaderMap: rawHeaders("content-type", "application/json", "content-length", "9")}), nil, true},
		"Envoy says cut":      {asked("/", `a=1&b`, "content-type", "application/x-www-form-urlencoded", "x-envoy-auth-partial-body", "true"), nil, true},
		"Envoy says whole":    {asked("/", `a=1`, "content-type", "application/x-www-form-urlencoded", "x-envoy-auth-partial-body", "false"), map[string]any{"a": []any{"1"}}, false},
		"at the limit":        {asked("/", `[1]`, "content-type", "application/json", "content-length", "3"), []any{1.0}, false},
		"at the limit + 1":    {asked("/", `[1]`, "content-type", "application/json", "content-length", "4"), nil, true},
		"length unknown":      {asked("/", `[1]`, "content-type", "application/json", "content-length", "-1"), []any{1.0}, false},
		"binary part":         {asked("/", "--B\r\nContent-Disposition: form-data; name=\"f\"\r\n\r\n\xffx\r\n--B--", "content-type", "multipart/form-data; boundary=B"), map[string]any{"f": []any{"\ufffdx"}}, false},
		"bytes of a part":     {asked("/", "--B\r\nContent-Disposition: form-data; name=\"f\"\r\n\r\n\xff\xfe\xc3x\r\n--B--", "content-type", "multipart/form-data; boundary=B"), map[string]any{"f": []any{"\ufffd\ufffd\ufffdx"}}, false},
		"gRPC":                {asked("/a.B/C", "\x00\x00\x00\x00\x00", "content-type", "application/grpc+proto"), nil, false},
		"as deep as may be":   {asked("/", strings.Repeat("[", 3)+strings.Repeat("]", 3), "content-type", "application/json"), []any{[]any{[]any{}}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			in, err := Input(c.req, Facts{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.body, throughJSON(t, in["parsed_body"])); diff != "" || in["truncated_body"] != c.cut {
				t.Errorf("truncated %v, want %v; body - want, + got:\n%s", in["truncated_body"], c.cut, diff)
			}
		})
	}
}

// input.meshseal is the caller's word alone, whatever the request says.
func TestInputFactsCannotBeForged(t *testing.T) {
	meshseal := map[string]any{"meshseal": map[string]any{"workload": "admin"}}
	s, err := structpb.NewStruct(meshseal)
	if err != nil {
		t.Fatal(err)
	}
	req := asked("/meshseal?meshseal=admin", `{"meshseal":{"workload":"admin"}}`,
		"content-type", "application/json", "meshseal", "admin", "input.meshseal.workload", "admin")
	req.Attributes.ContextExtensions = map[string]string{"meshseal": "admin"}
	req.Attributes.MetadataContext = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"meshseal": s}}
	in, err := Input(req, Facts{Workload: "web"})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"spiffe_id": "", "trust_domain": "", "digest": "", "evidence": "", "workload": "web", "proxy": "",
		"direction": "", "snapshot": "", "commit": "", "listener": "", "chain": "", "route": "", "cluster": "",
		"evidence_agreed": []any{},
	}
	if diff := cmp.Diff(want, in["meshseal"]); diff != "" {
		t.Error(diff)
	}
	for key := range in {
		switch key {
		case "attributes", "parsed_path", "parsed_query", "parsed_body", "truncated_body", "version", "meshseal":
		default:
			t.Errorf("input.%s is not in the document's description", key)
		}
	}
}

// Every field of Facts is a key of input.meshseal of its own.
func TestFactsAreAllShown(t *testing.T) {
	f := Facts{"a", "b", "c", "d", []string{"y", "z"}, "e", "f", "g", "h", "i", "j", "k", "l", "m"}
	seen := map[string]bool{}
	for _, v := range f.document() {
		seen[fmt.Sprint(v)] = true
	}
	if len(seen) != 14 || seen[""] || !seen["[y z]"] {
		t.Errorf("14 facts became %v", f.document())
	}
}

// The list is there for every caller, so that a policy can count it, and can be
// asked for one kind.
func TestPolicyOfAgreedEvidence(t *testing.T) {
	p := mustCompile(t, `package envoy.authz

default allow := false

allow if {
	count(input.meshseal.evidence_agreed) > 0
	"jwt-svid" in input.meshseal.evidence_agreed
}

allow if count(input.meshseal.evidence_agreed) == 0
`, "")
	for _, c := range []struct {
		agreed []string
		want   bool
	}{{nil, true}, {[]string{"jwt-svid", "x509-extension"}, true}, {[]string{"x509-extension"}, false}} {
		if r, err := ask(t, p, asked("/", ""), Facts{EvidenceAgreed: c.agreed}); err != nil || r.Allowed != c.want {
			t.Errorf("%v: %+v, %v; want %v", c.agreed, r, err, c.want)
		}
	}
}

// Any number is told in a form that JSON and a policy can read.
func TestNumbersOfMetadata(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := rapid.Float64().Draw(t, "number")
		s := &structpb.Struct{Fields: map[string]*structpb.Value{"n": structpb.NewNumberValue(f)}}
		got := structDocument(s)["n"]
		if _, err := json.Marshal(got); err != nil {
			t.Fatal(err)
		}
		if n, ok := got.(json.Number); ok {
			if back, err := n.Float64(); err != nil || back != f {
				t.Fatalf("%v became %s", f, n)
			}
		} else if want := fmt.Sprint(f); got == "" || (want != "NaN" && !strings.Contains(want, "Inf")) {
			t.Fatalf("%v became %v", f, got)
		}
	})
}

// FuzzInput: no request makes Input or an evaluation panic, what is accepted
// is a document that JSON can carry, and nothing is allowed that the policy
// does not allow.
func FuzzInput(f *testing.F) {
	seeds, err := filepath.Glob("testdata/plugin/*.request.json")
	if err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, s := range seeds {
		b, err := os.ReadFile(s)
		if err != nil {
			f.Fatal(err)
		}
		req := &authv3.CheckRequest{}
		if err := protojson.Unmarshal(b, req); err != nil {
			f.Fatal(err)
		}
		wire, err := proto.Marshal(req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
	}
	f.Add([]byte{})
	for _, message := range []string{text(1, "pen") + "\x10\x03", text(3, text(3, "")), text(4, inAny(inAny("")))} {
		wire, err := proto.Marshal(call("/shop.Orders/Put", framed(message)))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
	}
	p, err := Compile([]File{descriptorFile(f, "policies/shop.pb", orderService), file("policies/authz.rego", `package envoy.authz
default allow := false
allow if input.meshseal.workload == "web"
allow if input.parsed_body.meshseal.workload == input.meshseal.workload
allow if "meshseal" in object.keys(input.attributes)
`)}, "envoy/authz/allow")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		req := &authv3.CheckRequest{}
		if proto.Unmarshal(wire, req) != nil {
			return
		}
		in, err := p.Input(req, Facts{Workload: "\xffnobody"})
		if err != nil {
			if !errors.Is(err, ErrInput) || in != nil {
				t.Fatalf("%v, %v", in, err)
			}
			return
		}
		if _, err := json.Marshal(in); err != nil {
			t.Fatal(err)
		}
		if r, err := p.Eval(context.Background(), in); r.Allowed || err != nil {
			t.Fatalf("allowed %v, %v", r.Allowed, err)
		}
	})
}
