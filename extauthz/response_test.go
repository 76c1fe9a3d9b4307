package extauthz_test

import (
	"fmt"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/structpb"

	"meshseal/extauthz"
)

// TestAllowCarriesOutThePolicy: everything that opa-envoy-plugin lets a policy
// do to an allowed request.
func TestAllowCarriesOutThePolicy(t *testing.T) {
	w := newWorld(t, policy(`allow := {
	"allowed": true,
	"headers": {"X-User": ["ann", "bob"], "x-role": "admin"},
	"response_headers_to_add": {"set-cookie": ["a=1", "b=2"]},
	"request_headers_to_remove": ["authorization"],
	"query_parameters_to_set": {"user": "a-b"},
	"query_parameters_to_remove": ["token"],
	"dynamic_metadata": {"who": input.meshseal.workload},
	"body": "not for an allow",
	"http_status": 200,
}`))
	answer := w.wants(t, w.honest(), extauthz.OK)
	ok := answer.GetOkResponse()
	var got []string
	for _, h := range ok.GetHeaders() {
		//lint:ignore SA1019 by the action alone Envoy 1.40 keeps only the last value
		appends := h.GetAppend().GetValue()
		got = append(got, fmt.Sprintf("%s=%s %s append=%v", h.GetHeader().GetKey(), h.GetHeader().GetValue(), h.GetAppendAction(), appends))
	}
	want := []string{
		"x-user=ann OVERWRITE_IF_EXISTS_OR_ADD append=false",
		"x-user=bob APPEND_IF_EXISTS_OR_ADD append=true",
		"x-role=admin OVERWRITE_IF_EXISTS_OR_ADD append=false",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	added := []*corev3.HeaderValueOption{
		{Header: &corev3.HeaderValue{Key: "set-cookie", Value: "a=1"}},
		{Header: &corev3.HeaderValue{Key: "set-cookie", Value: "b=2"}},
	}
	if diff := cmp.Diff(added, ok.GetResponseHeadersToAdd(), protocmp.Transform()); diff != "" {
		t.Errorf("response headers, each added (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"authorization"}, ok.GetHeadersToRemove()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]*corev3.QueryParameter{{Key: "user", Value: "a-b"}}, ok.GetQueryParametersToSet(), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"token"}, ok.GetQueryParametersToRemove()); diff != "" {
		t.Error(diff)
	}
	who := &structpb.Struct{Fields: map[string]*structpb.Value{
		"who": structpb.NewStringValue("web"), "decision_id": structpb.NewStringValue(w.records.last(t).DecisionID),
	}}
	if diff := cmp.Diff(who, answer.GetDynamicMetadata(), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

// TestDenialOfThePolicy: status, headers and body are the policy's, the reason
// is ours.
func TestDenialOfThePolicy(t *testing.T) {
	w := newWorld(t, policy(`allow := {
	"allowed": false, "http_status": 302, "body": "sign in",
	"headers": {"location": "https://login.test", "set-cookie": ["a=1", "b=2"]},
	"dynamic_metadata": {"who": "nobody"},
}`))
	answer := w.wants(t, w.honest(), extauthz.PolicyDenied)
	d := answer.GetDeniedResponse()
	if d.GetStatus().GetCode() != 302 || d.GetBody() != "sign in" || header(d.GetHeaders(), "location") != "https://login.test" {
		t.Errorf("denial: %v", d)
	}
	for _, h := range d.GetHeaders() {
		//lint:ignore SA1019 with it, Envoy drops the second cookie
		if h.GetAppend() != nil {
			t.Errorf("%s has the append flag", h.GetHeader().GetKey())
		}
	}
	if got := header(d.GetHeaders(), "set-cookie"); got != "a=1 and b=2" {
		t.Errorf("cookies: %q", got)
	}
	if got := header(d.GetHeaders(), extauthz.HeaderDecision); got != w.records.last(t).DecisionID {
		t.Errorf("decision %q, the record says %q", got, w.records.last(t).DecisionID)
	}
	if answer.GetDynamicMetadata().GetFields()["who"].GetStringValue() != "nobody" {
		t.Errorf("dynamic metadata: %v", answer.GetDynamicMetadata())
	}
}

// TestPolicyMayNotReRoute: what Envoy would do after the check, so that the
// backend saw another request than was authorized, is refused.
func TestPolicyMayNotReRoute(t *testing.T) {
	for _, c := range []struct{ name, result string }{
		{"path", `{"allowed": true, "headers": {":path": "/admin"}}`},
		{"method", `{"allowed": true, "headers": {":method": "DELETE"}}`},
		{"authority", `{"allowed": true, "headers": {":authority": "other"}}`},
		{"host", `{"allowed": true, "headers": {"Host": "other"}}`},
		{"original destination", `{"allowed": true, "headers": {"x-envoy-original-dst-host": "10.0.0.9:80"}}`},
		{"content-length", `{"allowed": true, "headers": {"Content-Length": "0"}}`},
		{"transfer-encoding", `{"allowed": true, "headers": {"transfer-encoding": "chunked"}}`},
		{"connection", `{"allowed": true, "headers": {"connection": "close"}}`},
		{"upgrade", `{"allowed": true, "headers": {"upgrade": "websocket"}}`},
		{"te", `{"allowed": true, "headers": {"te": "trailers"}}`},
		{"our own", `{"allowed": true, "headers": {"x-meshseal-reason": "OK"}}`},
		{"our own key", `{"allowed": true, "headers": {"meshseal-route-mark": "x"}}`},
		{"line end in a value", `{"allowed": true, "headers": {"x-a": "b\r\nhost: other"}}`},
		{"empty name", `{"allowed": true, "headers": {"": "b"}}`},
		{"remove the host", `{"allowed": true, "request_headers_to_remove": ["host"]}`},
		{"remove the path", `{"allowed": true, "request_headers_to_remove": [":path"]}`},
		{"remove the framing", `{"allowed": true, "request_headers_to_remove": ["Content-Length"]}`},
		{"status of the response", `{"allowed": true, "response_headers_to_add": {":status": "200"}}`},
		{"framing of the response", `{"allowed": true, "response_headers_to_add": {"content-length": "0"}}`},
		{"our own in the response", `{"allowed": true, "response_headers_to_add": {"X-Meshseal-Reason": "OK"}}`},
		{"query value that begins another parameter", `{"allowed": true, "query_parameters_to_set": {"a": "b&admin=1"}}`},
		{"query value that ends the query", `{"allowed": true, "query_parameters_to_set": {"a": "b#"}}`},
		{"query value with a space", `{"allowed": true, "query_parameters_to_set": {"a": "b HTTP/1.1"}}`},
		{"query value with a line end", `{"allowed": true, "query_parameters_to_set": {"a": "b\r\nx: y"}}`},
		{"query value that is escaped", `{"allowed": true, "query_parameters_to_set": {"a": "b%20c"}}`},
		{"query value that Envoy would escape", `{"allowed": true, "query_parameters_to_set": {"a": "~"}}`},
		{"query name with an equals sign", `{"allowed": true, "query_parameters_to_set": {"a=b": "c"}}`},
		{"query name that is empty", `{"allowed": true, "query_parameters_to_set": {"": "c"}}`},
		{"query value that is not ASCII", `{"allowed": true, "query_parameters_to_set": {"a": "ü"}}`},
		{"denial that looks like success", `{"allowed": false, "http_status": 200}`},
		{"denial that sends the client to its cache", `{"allowed": false, "http_status": 304}`},
		{"denial with a status that is none", `{"allowed": false, "http_status": 42}`},
		{"our own in a denial", `{"allowed": false, "headers": {"x-meshseal-reason": "OK"}}`},
		{"framing of a denial", `{"allowed": false, "headers": {"transfer-encoding": "chunked"}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, policy("allow := "+c.result))
			answer := w.wants(t, w.honest(), extauthz.PolicyResult)
			if d := answer.GetDeniedResponse(); d.GetStatus().GetCode() != 403 || len(d.GetHeaders()) != 2 {
				t.Errorf("something of the refused result is in the answer: %v", d)
			}
		})
	}
}

// TestPolicyFaults: whatever Rego does wrong is a denial.
func TestPolicyFaults(t *testing.T) {
	for _, c := range []struct {
		name, rego string
		want       extauthz.Reason
	}{
		{"string", `allow := "true"`, extauthz.PolicyResult},
		{"number", `allow := 1`, extauthz.PolicyResult},
		{"set", `allow contains true`, extauthz.PolicyResult},
		{"null", `allow := null`, extauthz.PolicyResult},
		{"object without allowed", `allow := {"headers": {}}`, extauthz.PolicyResult},
		{"allowed is a string", `allow := {"allowed": "true"}`, extauthz.PolicyResult},
		{"conflict", "allow := true if input.attributes.request.http.method == \"GET\"\nallow := false if input.parsed_path[0] == \"api\"", extauthz.PolicyError},
		{"error under not", `allow if not json.unmarshal("{") == 1`, extauthz.PolicyError},
		{"division by zero", `allow if 1 / 0 == 1`, extauthz.PolicyError},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, policy(c.rego))
			w.wants(t, w.honest(), c.want)
		})
	}
}

// TestPolicySeesProvenFacts: input.meshseal, and opa-envoy-plugin's input.
func TestPolicySeesProvenFacts(t *testing.T) {
	w := newWorld(t, policy(`allow if {
	m := input.meshseal
	m.spiffe_id == "spiffe://shop.test/web"
	m.trust_domain == "shop.test"
	m.workload == "web"
	m.evidence == "peer-x509-svid"
	startswith(m.digest, "sha256:")
	startswith(m.snapshot, "sha256:")
	count(m.commit) == 40
	m.proxy == "orders"
	m.direction == "inbound"
	m.listener == "in"
	m.chain == "http"
	m.route == "api"
	m.cluster == "app"
	input.parsed_path == ["api"]
	input.parsed_query.x == ["1"]
	input.attributes.request.http.method == "GET"
}`))
	w.wants(t, w.honest(), extauthz.OK)
	q := w.honest()
	q.req.Attributes.Request.Http.Method = "POST"
	w.wants(t, q, extauthz.PolicyUndefined)
}
