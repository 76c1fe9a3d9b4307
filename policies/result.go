package policies

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"golang.org/x/net/http/httpguts"
	"google.golang.org/protobuf/types/known/structpb"
)

// Result is what a policy decided about one request. The zero Result denies.
type Result struct {
	Allowed bool
	// Headers go to the backend with an allowed request, in place of headers
	// of the same name, and to the client with a denial. Sorted by name; the
	// values of one name keep the policy's order.
	Headers []Header
	// ResponseHeadersToAdd go to the client with the backend's response.
	ResponseHeadersToAdd []Header
	// RequestHeadersToRemove are taken off an allowed request.
	RequestHeadersToRemove []string
	// Body is the body of a denial.
	Body string
	// HTTPStatus is the status of a denial: 403 unless the policy says
	// otherwise.
	HTTPStatus int
	// DynamicMetadata becomes the filter's dynamic metadata; nil for none.
	DynamicMetadata *structpb.Struct
	// QueryParametersToSet and QueryParametersToRemove change the query of an
	// allowed request.
	QueryParametersToSet    []QueryParameter
	QueryParametersToRemove []string
	// Document is the decision as the policy gave it: bool or map[string]any.
	Document any
}

// Header is one value of one HTTP header.
type Header struct{ Name, Value string }

// QueryParameter is one value of one parameter of a query.
type QueryParameter struct{ Name, Value string }

// parseResult reads a decision document. It is stricter than
// opa-envoy-plugin, which does not look at fields that an allowed or a denied
// request does not use: here a field of the wrong type is always an error.
func parseResult(document any) (Result, error) {
	r := Result{HTTPStatus: http.StatusForbidden, Document: document}
	switch d := document.(type) {
	case bool:
		r.Allowed = d
		return r, nil
	case map[string]any:
		if err := r.read(d); err != nil {
			return Result{}, fmt.Errorf("%w: %w", ErrResultType, err)
		}
		return r, nil
	}
	return Result{}, fmt.Errorf("%w: want a boolean or an object, got %s", ErrResultType, kind(document))
}

func (r *Result) read(d map[string]any) (err error) {
	allowed, ok := d["allowed"]
	if !ok {
		return fmt.Errorf("the object has no field %q", "allowed")
	}
	if r.Allowed, ok = allowed.(bool); !ok {
		return fmt.Errorf("allowed: want a boolean, got %s", kind(allowed))
	}
	if r.Headers, err = headers(d, "headers", r.Allowed); err != nil {
		return err
	}
	if r.ResponseHeadersToAdd, err = headers(d, "response_headers_to_add", false); err != nil {
		return err
	}
	if r.RequestHeadersToRemove, err = stringList(d, "request_headers_to_remove"); err != nil {
		return err
	}
	for _, name := range r.RequestHeadersToRemove {
		if err := checkHeaderName(name, true); err != nil {
			return fmt.Errorf("request_headers_to_remove: %w", err)
		}
	}
	if r.QueryParametersToSet, err = queryParameters(d); err != nil {
		return err
	}
	if r.QueryParametersToRemove, err = stringList(d, "query_parameters_to_remove"); err != nil {
		return err
	}
	return r.readDenial(d)
}

// readDenial reads body, http_status and dynamic_metadata.
func (r *Result) readDenial(d map[string]any) error {
	if v, ok := d["body"]; ok {
		if r.Body, ok = v.(string); !ok {
			return fmt.Errorf("body: want a string, got %s", kind(v))
		}
	}
	if v, ok := d["http_status"]; ok {
		n, ok := v.(json.Number)
		if !ok {
			return fmt.Errorf("http_status: want a number, got %s", kind(v))
		}
		status, err := n.Int64()
		if err != nil || status < 200 || status > 599 || typev3.StatusCode_name[int32(status)] == "" {
			return fmt.Errorf("http_status: %s is no final HTTP status that Envoy knows", clip(n.String()))
		}
		r.HTTPStatus = int(status)
	}
	if v, ok := d["dynamic_metadata"]; ok {
		m, ok := v.(map[string]any)
		if !ok {
			return fmt.Errorf("dynamic_metadata: want an object, got %s", kind(v))
		}
		var err error
		if r.DynamicMetadata, err = structpb.NewStruct(m); err != nil {
			return fmt.Errorf("dynamic_metadata: %w", err)
		}
	}
	return nil
}

// headers reads an object of name to value or list of values, or a list of
// such objects.
func headers(d map[string]any, field string, request bool) ([]Header, error) {
	v, ok := d[field]
	if !ok {
		return nil, nil
	}
	objects, ok := v.([]any)
	if !ok {
		objects = []any{v}
	}
	var out []Header
	for _, o := range objects {
		m, ok := o.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%s: want an object or a list of objects, got %s", field, kind(o))
		}
		pairs, err := namedValues(m)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", field, err)
		}
		for _, p := range pairs {
			if err := checkHeader(p[0], p[1], request); err != nil {
				return nil, fmt.Errorf("%s: %w", field, err)
			}
			out = append(out, Header{p[0], p[1]})
		}
	}
	return out, nil
}

func checkHeader(name, value string, request bool) error {
	if err := checkHeaderName(name, request); err != nil {
		return err
	}
	if !httpguts.ValidHeaderFieldValue(value) {
		return fmt.Errorf("the value of header %q has a control character in it", name)
	}
	return nil
}

// checkHeaderName refuses what is no header's name, and, for a request, the
// headers that say where it goes: what was authorized is what is sent on. The
// list is that of Envoy's HeaderMutationRules (config.common.mutation_rules.v3)
// when nothing is set in them.
func checkHeaderName(name string, request bool) error {
	if !httpguts.ValidHeaderFieldName(name) {
		return fmt.Errorf("%q is no name of a header that a policy may set", clip(name))
	}
	lower := strings.ToLower(name)
	if request && (lower == "host" || strings.HasPrefix(lower, "x-envoy-")) {
		return fmt.Errorf("header %q steers the request; a policy may not change it", clip(name))
	}
	return nil
}

// queryParameters reads an object of name to value or list of values.
func queryParameters(d map[string]any) ([]QueryParameter, error) {
	const field = "query_parameters_to_set"
	v, ok := d[field]
	if !ok {
		return nil, nil
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s: want an object, got %s", field, kind(v))
	}
	pairs, err := namedValues(m)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	out := make([]QueryParameter, len(pairs))
	for i, p := range pairs {
		out[i] = QueryParameter{p[0], p[1]}
	}
	return out, nil
}

// namedValues flattens an object of name to value or list of values, sorted
// by name.
func namedValues(m map[string]any) ([][2]string, error) {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	var out [][2]string
	for _, name := range names {
		values, ok := m[name].([]any)
		if !ok {
			values = []any{m[name]}
		}
		for _, v := range values {
			s, ok := v.(string)
			if !ok {
				return nil, fmt.Errorf("%q: want a string or a list of strings, got %s", clip(name), kind(v))
			}
			out = append(out, [2]string{name, s})
		}
	}
	return out, nil
}

func stringList(d map[string]any, field string) ([]string, error) {
	v, ok := d[field]
	if !ok {
		return nil, nil
	}
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("%s: want a list of strings, got %s", field, kind(v))
	}
	out := make([]string, len(list))
	for i, e := range list {
		if out[i], ok = e.(string); !ok {
			return nil, fmt.Errorf("%s: want a list of strings, got %s in it", field, kind(e))
		}
	}
	return out, nil
}

// kind names the type of a JSON value in Rego's words.
func kind(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case json.Number:
		return "a number"
	case string:
		return "a string"
	case []any:
		return "an array or a set"
	case map[string]any:
		return "an object"
	}
	return fmt.Sprintf("%T", v)
}

// clip keeps an error message short whatever a peer sent.
func clip(s string) string {
	const most = 100
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
