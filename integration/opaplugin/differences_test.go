package opaplugin_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv2 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v2"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"meshseal/policies"
)

// post is a request of Envoy's; headers are pairs of name and value.
func post(path, body string, headers ...string) *authv3.CheckRequest {
	h := &authv3.AttributeContext_HttpRequest{Method: "POST", Path: path, Headers: map[string]string{}, RawBody: []byte(body)}
	for i := 0; i < len(headers); i += 2 {
		h.Headers[headers[i]] = headers[i+1]
	}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source:            &authv3.AttributeContext_Peer{Address: socket("10.0.0.7", 40000)},
		Destination:       &authv3.AttributeContext_Peer{Address: socket(address, port)},
		Request:           &authv3.AttributeContext_Request{Http: h},
		ContextExtensions: map[string]string{"decision": `{"allowed":true}`},
	}}
}

func postJSON(body string) *authv3.CheckRequest {
	return post("/", body, "content-type", "application/json")
}

func call(message, after string) *authv3.CheckRequest {
	frame := string(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))) + message + after
	return post("/shop.Orders/Put", frame, "content-type", "application/grpc")
}

// decided is a request about which this is decided.
func decided(decision string) *authv3.CheckRequest {
	req := post("/", "")
	req.Attributes.ContextExtensions["decision"] = decision
	return req
}

func inRawForm(req *authv3.CheckRequest) *authv3.CheckRequest {
	h := req.GetAttributes().GetRequest().GetHttp()
	h.HeaderMap = &corev3.HeaderMap{}
	for name, value := range h.Headers {
		h.HeaderMap.Headers = append(h.HeaderMap.Headers, &corev3.HeaderValue{Key: name, RawValue: []byte(value)})
	}
	h.Headers = nil
	return req
}

func withoutMethod(req *authv3.CheckRequest) *authv3.CheckRequest {
	req.GetAttributes().GetRequest().GetHttp().Method = ""
	return req
}

const part = "--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n"

// inputCases show the differences of input documents; more than one request
// where a difference has several sides.
var inputCases = map[string][]*authv3.CheckRequest{
	rawHeaders.name: {inRawForm(postJSON("[1]"))},
	capitals.name: {
		post("/", "[1]", "content-type", "Application/JSON"),
		post("/", "--B\r\nContent-Disposition: form-data; name=a\r\nContent-Type: application/JSON\r\n\r\n[1]\r\n--B--", "content-type", "multipart/form-data; boundary=B"),
	},
	typeElsewhere.name: {
		post("/", "a=1", "content-type", `application/x-www-form-urlencoded; x="application/json"`),
		post("/", "[1]", "content-type", "text/plain; x=\"application/json\""),
	},
	partialBody.name: {
		post("/", "a=1&b", "content-type", "application/x-www-form-urlencoded", "x-envoy-auth-partial-body", "true"),
		func() *authv3.CheckRequest {
			req := call(bytesField("", 1, "pen"), "")
			req.GetAttributes().GetRequest().GetHttp().Headers["x-envoy-auth-partial-body"] = "true"
			return req
		}(),
	},
	noAttributes.name: {{}},
	notUTF8.name: {
		post("/%ff", ""), post("/?a=%ff", ""), post("/?%ff=1", ""), postJSON("[\"\xff\"]"),
		post("/", "a=%ff", "content-type", "application/x-www-form-urlencoded"),
	},
	malformedType.name: {post("/", "[1]", "content-type", "application/json;;"), post("/", "[1]", "content-type", "application/json,application/json")},
	keyTwice.name:      {postJSON(`{"a":1,"a":2}`), postJSON(`{"a":1,"\u0061":2}`)},
	trailingNull.name:  {postJSON(`{"a":1} null`)},
	tooDeep.name: {
		postJSON(strings.Repeat("[", 202) + strings.Repeat("]", 202)),
	},
	hugeNumbers.name: {postJSON("1e400"), postJSON("0." + strings.Repeat("3", 399))},
	openMultipart.name: {
		post("/", part+"--B\r\nContent-Disposition: form-", "content-type", "multipart/form-data; boundary=B"),
		post("/", part[:len(part)-2]+"\n--B--\nmore\r\n--B\r\nContent-Disposition: form-", "content-type", "multipart/form-data; boundary=B"),
	},
	manyParts.name:     {post("/", strings.Repeat(part, 1001)+"--B--", "content-type", "multipart/form-data; boundary=B")},
	secondMessage.name: {call(bytesField("", 1, "pen"), "\x00\x00\x00\x00\x00")},
	largeMessage.name:  {call(bytesField("", 1, strings.Repeat("x", 1<<18)), "")},
}

// answerCases show the differences of answers to what the policy decides.
var answerCases = map[string][]*authv3.CheckRequest{
	noRequestLine.name: {withoutMethod(post("/", "")), post("", "")},
	unusedField.name: {
		decided(`{"allowed":true,"body":1}`), decided(`{"allowed":true,"http_status":"403"}`), decided(`{"allowed":false,"query_parameters_to_remove":"a"}`),
		decided(`{"allowed":false,"request_headers_to_remove":null}`), decided(`{"allowed":false,"query_parameters_to_set":[]}`), decided(`{"allowed":false,"response_headers_to_add":1}`),
	},
	malformedHeader.name: {decided(`{"allowed":true,"headers":{"a b":"c"}}`), decided(`{"allowed":true,"response_headers_to_add":{"a":"b\r\nc: d"}}`)},
	steeringHeader.name: {
		decided(`{"allowed":true,"headers":{"Host":"elsewhere"}}`), decided(`{"allowed":true,"request_headers_to_remove":["x-envoy-internal"]}`),
		decided(`{"allowed":true,"headers":{"content-length":"0"}}`), decided(`{"allowed":false,"headers":{"X-Meshseal-Reason":"OK"}}`),
		decided(`{"allowed":true,"response_headers_to_add":{"transfer-encoding":"chunked"}}`),
	},
	queryCharacters.name: {decided(`{"allowed":true,"query_parameters_to_set":{"a":"b&c=d"}}`), decided(`{"allowed":true,"query_parameters_to_set":{"":"a"}}`)},
	denialStatus.name:    {decided(`{"allowed":false,"http_status":200}`), decided(`{"allowed":false,"http_status":304}`)},
	errorDenies.name:     {decided(`{}`), decided(`"true"`), decided(`{"allowed":1}`), decided(`{"allowed":false,"http_status":99}`)},
	badRequest.name:      {postJSON("{"), post("/%zz", "")},
	ownHeaders.name:      {decided(`{"allowed":false}`), decided(`{"allowed":false,"body":"no","headers":{"a":"b"}}`)},
	booleanAnswer.name:   {decided(`true`), decided(`false`)},
	headerOptions.name:   {decided(`{"allowed":true,"headers":{"X-User":["a","b"]}}`), decided(`{"allowed":false,"headers":{"X-User":["a","b"]}}`)},
}

// otherCases show differences that are none of one request.
var otherCases = map[string]func(*testing.T, *pair){
	anyOfSet.name:        showAnyOfSet,
	builtinError.name:    showBuiltinError,
	refusedFunction.name: showRefusedFunction,
	versionTwo.name:      showVersionTwo,
}

// TestDifferences shows each row of the table, and that each is a difference.
func TestDifferences(t *testing.T) {
	p := newPair(t, policy, entry)
	for _, w := range rows {
		t.Run(w.name, func(t *testing.T) {
			inputs, answers, other := inputCases[w.name], answerCases[w.name], otherCases[w.name]
			if len(inputs)+len(answers) == 0 && other == nil {
				t.Fatal("no case shows it")
			}
			for n, req := range inputs {
				p.showInput(t, w, n, req)
			}
			for n, req := range answers {
				p.showAnswer(t, w, n, req)
			}
			if other != nil {
				other(t, p)
			}
		})
	}
}

func (p *pair) showInput(t *testing.T, w row, n int, req *authv3.CheckRequest) {
	met, difference := p.sameInput(req)
	if difference != "" || !slices.Contains(met, w) {
		t.Errorf("request %d: differs by %v; %s", n, met, difference)
	}
	theirs, err := pluginInput(req, p.files)
	ours, oursErr := p.program.Input(req, policies.Facts{})
	if delete(ours, "meshseal"); err == nil && oursErr == nil && document(theirs) == document(ours) {
		t.Errorf("request %d: no difference", n)
	}
	if (err == nil) == (oursErr == nil) && err != nil {
		t.Errorf("request %d: both refuse it: %v; %v", n, err, oursErr)
	}
}

func (p *pair) showAnswer(t *testing.T, w row, n int, req *authv3.CheckRequest) {
	met, difference := p.sameAnswer(t, req, decisionOf(req))
	if difference != "" || !slices.Contains(met, w) {
		t.Errorf("request %d: differs by %v; %s", n, met, difference)
	}
}

func showAnyOfSet(t *testing.T, p *pair) {
	req := call(bytesField("", 4, bytesField("", 1, "x/shop.Order")+bytesField("", 2, bytesField("", 1, "pen"))), "")
	if theirs, err := pluginInput(req, p.files); err == nil {
		t.Errorf("the plugin reads it: %v", theirs)
	}
	ours, err := p.program.Input(req, policies.Facts{})
	if want := `map[notes:[map[@type:x/shop.Order itemId:pen]]]`; err != nil || fmt.Sprint(ours["parsed_body"]) != want {
		t.Errorf("got %v, %v, want %s", ours["parsed_body"], err, want)
	}
}

func showBuiltinError(t *testing.T, _ *pair) {
	const rego = "package envoy.authz\n\nallow if not startswith(input.parsed_body.path, \"/admin\")\n"
	req := postJSON(`{"path":["/admin"]}`)
	theirs, err := authv3.NewAuthorizationClient(startPlugin(t, rego, entry, nil)).Check(context.Background(), req)
	if err != nil || theirs.GetStatus().GetCode() != int32(codes.OK) {
		t.Errorf("the plugin: %v, %v", theirs, err)
	}
	s := startServer(t, rego, entry)
	req.GetAttributes().GetSource().Certificate = s.certificate
	forwarded(req.GetAttributes().GetRequest().GetHttp())
	if ours, err := s.check(req); err != nil || ours.GetStatus().GetMessage() != "POLICY_ERROR" {
		t.Errorf("meshseal: %v, %v", ours, err)
	}
}

func showRefusedFunction(t *testing.T, _ *pair) {
	const rego = "package envoy.authz\n\nallow if opa.runtime().env.HOME\n"
	theirs, err := authv3.NewAuthorizationClient(startPlugin(t, rego, entry, nil)).Check(context.Background(), post("/", ""))
	if status.Code(err) != codes.Unknown { // undefined: the function ran
		t.Errorf("the plugin: %v, %v", theirs, err)
	}
	if _, err := policies.Compile([]policies.File{{Path: "policies/a.rego", Data: []byte(rego)}}, entry); err == nil || !strings.Contains(err.Error(), "policies/a.rego:3: opa.runtime is not available") {
		t.Errorf("meshseal: %v", err)
	}
}

func showVersionTwo(t *testing.T, p *pair) {
	if _, err := authv2.NewAuthorizationClient(p.server.conn).Check(context.Background(), &authv2.CheckRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("meshseal: %v", err)
	}
	if _, err := authv2.NewAuthorizationClient(startPlugin(t, "package envoy.authz\n\nallow := true\n", entry, nil)).Check(context.Background(), &authv2.CheckRequest{}); err != nil {
		t.Errorf("the plugin: %v", err)
	}
}

// TestDifferencesAreDocumented holds the table in docs/policy.md equal to rows.
func TestDifferencesAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	want.WriteString("| case | opa-envoy-plugin | here |\n|---|---|---|\n")
	for _, w := range rows {
		fmt.Fprintf(&want, "| `%s` | %s | %s |\n", w.name, w.plugin, w.meshseal)
	}
	if !bytes.Contains(text, append(want.Bytes(), '\n')) {
		t.Errorf("docs/policy.md does not have this table:\n%s", want.String())
	}
}
