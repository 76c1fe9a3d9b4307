package policies

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/structpb"
)

func decide(t *testing.T, rule string) (Result, error) {
	t.Helper()
	p := mustCompile(t, "package envoy.authz\n"+rule, "")
	r, err := p.Eval(context.Background(), object{})
	r.Document = nil
	return r, err
}

func TestDecisions(t *testing.T) {
	metadata, err := structpb.NewStruct(object{"user": "alice", "n": 1.5, "list": []any{"a", nil, true}, "o": object{}})
	if err != nil {
		t.Fatal(err)
	}
	for rule, want := range map[string]Result{
		`allow := true`:                                      {Allowed: true, HTTPStatus: 403},
		`allow := false`:                                     {HTTPStatus: 403},
		`allow := {"allowed": true}`:                         {Allowed: true, HTTPStatus: 403},
		`allow := {"allowed": false}`:                        {HTTPStatus: 403},
		`allow := {"allowed": true, "reason": [1], "id": 7}`: {Allowed: true, HTTPStatus: 403},
		`allow := {"allowed": false, "http_status": 429, "body": "slow down", "headers": {"retry-after": "3"}}`: {
			HTTPStatus: 429, Body: "slow down", Headers: []Header{{"retry-after", "3"}},
		},
		`allow := {"allowed": true, "headers": {"x-b": ["2", "1"], "X-A": "a"}}`: {
			Allowed: true, HTTPStatus: 403, Headers: []Header{{"X-A", "a"}, {"x-b", "2"}, {"x-b", "1"}},
		},
		`allow := {"allowed": true, "headers": [{"x-b": "2"}, {"x-a": "1"}, {"x-b": "0"}]}`: {
			Allowed: true, HTTPStatus: 403, Headers: []Header{{"x-b", "2"}, {"x-a", "1"}, {"x-b", "0"}},
		},
		`allow := {"allowed": true, "response_headers_to_add": {"x-envoy-a": "1"}, "request_headers_to_remove": ["cookie"]}`: {
			Allowed: true, HTTPStatus: 403, ResponseHeadersToAdd: []Header{{"x-envoy-a", "1"}}, RequestHeadersToRemove: []string{"cookie"},
		},
		`allow := {"allowed": true, "request_headers_to_remove": {"a", "b"}}`: {
			Allowed: true, HTTPStatus: 403, RequestHeadersToRemove: []string{"a", "b"},
		},
		`allow := {"allowed": true, "query_parameters_to_set": {"b": ["1", "2"], "a": "0"}, "query_parameters_to_remove": ["c"]}`: {
			Allowed: true, HTTPStatus: 403, QueryParametersToSet: []QueryParameter{{"a", "0"}, {"b", "1"}, {"b", "2"}}, QueryParametersToRemove: []string{"c"},
		},
		`allow := {"allowed": true, "dynamic_metadata": {"user": "alice", "n": 1.5, "list": ["a", null, true], "o": {}}}`: {
			Allowed: true, HTTPStatus: 403, DynamicMetadata: metadata,
		},
	} {
		t.Run(rule, func(t *testing.T) {
			got, err := decide(t, rule)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A field of the wrong type is a denial, whether the decision would use the
// field or not.
func TestDecisionsOfTheWrongType(t *testing.T) {
	for _, fields := range []string{
		`"headers": "x"`, `"headers": ["x"]`, `"headers": {"x": 1}`, `"headers": {"x": ["a", 1]}`, `"headers": {"x": null}`,
		`"headers": {"x": {"y": "z"}}`, `"headers": [[{"x": "y"}]]`, `"headers": null`, `"headers": 1`,
		`"headers": {"": "x"}`, `"headers": {"a b": "x"}`, `"headers": {"a": "b\r\nc: d"}`, `"headers": {"a\n": "b"}`, `"headers": {"a": "\u0000"}`,
		`"response_headers_to_add": "x"`, `"response_headers_to_add": {":status": "200"}`, `"response_headers_to_add": {"x": "a\nb"}`,
		`"request_headers_to_remove": "x"`, `"request_headers_to_remove": {"x": "y"}`, `"request_headers_to_remove": [1]`,
		`"request_headers_to_remove": ["host"]`, `"request_headers_to_remove": [":path"]`, `"request_headers_to_remove": [""]`,
		`"body": 1`, `"body": ["x"]`, `"body": null`,
		`"http_status": "403"`, `"http_status": 403.5`, `"http_status": 100`, `"http_status": 101`, `"http_status": 0`, `"http_status": -403`,
		`"http_status": 299`, `"http_status": 600`, `"http_status": 1e30`, `"http_status": null`, `"http_status": 4294967699`,
		`"dynamic_metadata": "x"`, `"dynamic_metadata": ["x"]`, `"dynamic_metadata": null`,
		`"query_parameters_to_set": ["x"]`, `"query_parameters_to_set": {"x": 1}`, `"query_parameters_to_set": {"x": [1]}`, `"query_parameters_to_set": "x"`,
		`"query_parameters_to_remove": "x"`, `"query_parameters_to_remove": [1]`, `"query_parameters_to_remove": {"x": 1}`,
	} {
		for _, allowed := range []string{"true", "false"} {
			rule := `allow := {"allowed": ` + allowed + `, ` + fields + `}`
			got, err := decide(t, rule)
			if !errors.Is(err, ErrResultType) || got.Allowed {
				t.Errorf("%s: %+v, %v; want ErrResultType", rule, got, err)
				continue
			}
			field := strings.Trim(strings.SplitN(fields, ":", 2)[0], `"`)
			if !strings.Contains(err.Error(), field) {
				t.Errorf("%v does not name the field %s", err, field)
			}
		}
	}
}

// A policy narrows; it does not send a request elsewhere. With a denial the
// same names go to the client and steer nothing.
func TestDecisionsDoNotSteer(t *testing.T) {
	for _, name := range []string{"host", "Host", ":path", ":authority", ":method", "x-envoy-original-dst-host", "X-Envoy-Upstream-Alt-Stat-Name"} {
		got, err := decide(t, `allow := {"allowed": true, "headers": {"`+name+`": "x"}}`)
		if !errors.Is(err, ErrResultType) || got.Allowed {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if got, err := decide(t, `allow := {"allowed": false, "headers": {"x-envoy-ratelimited": "1"}}`); err != nil || len(got.Headers) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}
