package extauthz

import (
	"errors"
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
		if q.Name == "" || !unreserved(q.Name) || !unreserved(q.Value) {
			// Not the value: it may be what a record leaves out of the request.
			return fmt.Errorf("query_parameters_to_set: %q: %w", q.Name, errReserved)
		}
	}
	if !r.Allowed && !denies(r.HTTPStatus) {
		return fmt.Errorf("http_status: %d is neither a redirect nor an error; a denial must not look like success", r.HTTPStatus)
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

// denies reports whether a denial may have this HTTP status: a redirect, to a
// login page for one, or an error.
func denies(status int) bool {
	switch status {
	case 301, 302, 303, 307, 308:
		return true
	}
	return status >= 400 && status <= 599
}

// errReserved: Envoy writes names and values into the path as they are, and
// with validate_mutations, which the build sets, answers 500 to any with
// another character than these, also to one that is escaped already (seen on
// 1.40.0 for each character).
var errReserved = errors.New("only letters, digits and *-._ may stand in its name and its value")

func unreserved(s string) bool {
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789*-._") == ""
}

const (
	add     = corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD
	replace = corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD
)

// requestHeaders go to the backend. The first value of a name takes the place
// of what the client sent; further ones are added to it. Envoy 1.40.0 does
// that by the older flag alone: by the action, the last value wins (seen), and
// with neither set, Envoys differ in whether they add or replace.
func requestHeaders(headers []policies.Header) []*corev3.HeaderValueOption {
	out := headerOptions(headers, replace)
	for _, h := range out {
		//lint:ignore SA1019 the action alone does not do it, see above
		h.Append = wrapperspb.Bool(h.GetAppendAction() == add)
	}
	return out
}

// responseHeaders are added to those of the backend's response: replacing them
// would take away its cookies.
func responseHeaders(headers []policies.Header) []*corev3.HeaderValueOption {
	return headerOptions(headers, add)
}

// denialHeaders are those of a denial, in place of Envoy's own. By the older
// flag, of several values only the first is sent (seen on 1.40.0).
func denialHeaders(headers []policies.Header) []*corev3.HeaderValueOption {
	return headerOptions(headers, replace)
}

// headerOptions are headers in Envoy's form, the first of a name carried out by
// the action first, further ones added.
func headerOptions(headers []policies.Header, first corev3.HeaderValueOption_HeaderAppendAction) []*corev3.HeaderValueOption {
	var out []*corev3.HeaderValueOption
	seen := map[string]bool{}
	for _, h := range headers {
		name, action := strings.ToLower(h.Name), first
		if seen[name] {
			action = add
		}
		seen[name] = true
		out = append(out, &corev3.HeaderValueOption{
			Header:       &corev3.HeaderValue{Key: name, Value: h.Value},
			AppendAction: action,
		})
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
func denialStatus(r policies.Result) int {
	if denies(r.HTTPStatus) {
		return r.HTTPStatus
	}
	return http.StatusForbidden
}
