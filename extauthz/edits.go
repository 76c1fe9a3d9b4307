package extauthz

import (
	"fmt"
	"net/http"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"meshseal/policies"
)

// ownPrefixes begin the headers that only meshseal itself sets.
var ownPrefixes = []string{"x-meshseal-", "meshseal-"}

// fixed are headers that no policy may touch, in a request or an answer: they
// say where one message ends and the next begins, or belong to one connection.
// Envoy carries out such an edit after the check, so what the backend saw
// would no longer be what was authorized.
var fixed = map[string]bool{
	"connection":        true,
	"content-length":    true,
	"host":              true,
	"http2-settings":    true,
	"keep-alive":        true,
	"proxy-connection":  true,
	"te":                true,
	"trailer":           true,
	"transfer-encoding": true,
	"upgrade":           true,
}

// checkEdits refuses what a policy wants done and Envoy must not do. The
// policies package has checked that names and values are well-formed and that
// no request header which steers Envoy is set; here is the rest.
func checkEdits(r policies.Result) error {
	for _, list := range [][]policies.Header{r.Headers, r.ResponseHeadersToAdd} {
		for _, h := range list {
			if err := checkEdit(h.Name); err != nil {
				return err
			}
		}
	}
	for _, name := range r.RequestHeadersToRemove {
		if err := checkEdit(name); err != nil {
			return err
		}
	}
	for _, q := range r.QueryParametersToSet {
		if !isQuery(q.Name, "&=#") || q.Name == "" || !isQuery(q.Value, "&#") {
			return fmt.Errorf("query_parameters_to_set: %q is not percent-encoded; Envoy writes it into the path as it is", q.Name)
		}
	}
	if !r.Allowed && (r.HTTPStatus < 300 || r.HTTPStatus > 599) {
		return fmt.Errorf("http_status: a denial with status %d would look like success", r.HTTPStatus)
	}
	return nil
}

func checkEdit(name string) error {
	lower := strings.ToLower(name)
	if fixed[lower] || strings.HasPrefix(lower, ":") {
		return fmt.Errorf("header %q frames or steers the message; a policy may not change it", name)
	}
	for _, p := range ownPrefixes {
		if strings.HasPrefix(lower, p) {
			return fmt.Errorf("header %q belongs to meshseal; a policy may not change it", name)
		}
	}
	return nil
}

// isQuery reports whether s may stand in the query of a URL (RFC 3986 section
// 3.4) and has none of the characters in without.
func isQuery(s, without string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case strings.IndexByte(without, c) >= 0:
			return false
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("-._~!$&'()*+,;=:@/?", c) >= 0:
		case c == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
		default:
			return false
		}
	}
	return true
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// headerOptions are headers in Envoy's form. The first value of a name takes
// the place of what is there, so that a client cannot bring its own; further
// ones are added to it. Both the action and the older append flag say so: with
// neither set, Envoys differ in whether they add or replace.
func headerOptions(headers []policies.Header) []*corev3.HeaderValueOption {
	var out []*corev3.HeaderValueOption
	seen := map[string]bool{}
	for _, h := range headers {
		name := strings.ToLower(h.Name)
		action := corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD
		if seen[name] {
			action = corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD
		}
		out = append(out, &corev3.HeaderValueOption{
			Header:       &corev3.HeaderValue{Key: name, Value: h.Value},
			AppendAction: action,
			Append:       wrapperspb.Bool(seen[name]), //nolint:staticcheck // SA1019: Envoys before append_action read this one
		})
		seen[name] = true
	}
	return out
}

func queryParameters(list []policies.QueryParameter) []*corev3.QueryParameter {
	var out []*corev3.QueryParameter
	for _, q := range list {
		out = append(out, &corev3.QueryParameter{Key: q.Name, Value: q.Value})
	}
	return out
}

// denialStatus is the HTTP status of a denial.
func denialStatus(d Decision) int {
	if d.edits != nil && d.edits.HTTPStatus >= 300 && d.edits.HTTPStatus <= 599 {
		return d.edits.HTTPStatus
	}
	return http.StatusForbidden
}
