package opaplugin_test

import (
	"encoding/json"
	"regexp"
	"strings"

	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
)

// refusedFields are the differences because of which meshseal refuses a
// decision that the plugin carries out. Fields that both refuse are not its
// business.
func refusedFields(d map[string]any) (found []row) {
	if d == nil {
		return nil
	}
	differ := func(w row, yes bool) {
		if yes {
			found = append(found, w)
		}
	}
	allowed := d["allowed"] == true
	body, hasBody := d["body"]
	_, isText := body.(string)
	status, hasStatus := d["http_status"]
	number, _ := status.(json.Number)
	code, err := number.Int64()
	known := err == nil && code > 0 && code < 600 && typev3.StatusCode_name[int32(code)] != ""
	toRemove, removable := list(d, "request_headers_to_remove")
	headersToAdd, addable := pairs(d, "response_headers_to_add", true)
	_, queryRemovable := list(d, "query_parameters_to_remove")
	query, settable := pairs(d, "query_parameters_to_set", false)
	own, _ := pairs(d, "headers", true) // both look at these in every decision

	differ(unusedField, allowed && (hasBody && !isText || hasStatus && !(known && code >= 200)))
	differ(unusedField, !allowed && !(removable && addable && queryRemovable && settable))
	differ(denialStatus, !allowed && hasStatus && known && !denies(int(code)))

	for _, h := range append(own, headersToAdd...) {
		differ(malformedHeader, !headerName.MatchString(h[0]) || badValue.MatchString(h[1]))
		differ(steeringHeader, steers(h[0]))
	}
	for _, h := range own {
		differ(steeringHeader, allowed && routes(h[0]))
	}
	for _, name := range toRemove {
		differ(malformedHeader, !headerName.MatchString(name))
		differ(steeringHeader, steers(name) || routes(name))
	}
	for _, q := range query {
		differ(queryCharacters, q[0] == "" || oddQuery.MatchString(q[0]+q[1]))
	}
	return found
}

var (
	headerName = regexp.MustCompile("^[-!#$%&'*+.^_`|~0-9A-Za-z]+$") // token of RFC 9110
	badValue   = regexp.MustCompile(`[\x00-\x08\x0a-\x1f\x7f]`)      // RFC 9110, section 5.5
	oddQuery   = regexp.MustCompile(`[^A-Za-z0-9*._-]`)              // beyond what Envoy takes
	framing    = regexp.MustCompile(`(?i)^(:.*|connection|content-length|host|http2-settings|keep-alive|proxy-connection|te|trailer|transfer-encoding|upgrade|x-meshseal-.*|meshseal-.*)$`)
)

func steers(name string) bool { return framing.MatchString(name) }

// routes reports whether a header of the request says where it goes.
func routes(name string) bool {
	return strings.EqualFold(name, "host") || strings.HasPrefix(strings.ToLower(name), "x-envoy-")
}

func denies(status int) bool {
	return status >= 400 && status <= 599 || status >= 301 && status <= 308 && status != 304 && status != 305 && status != 306
}

// list reads a list of strings; false if it is something else.
func list(d map[string]any, field string) ([]string, bool) {
	v, ok := d[field]
	if !ok {
		return nil, true
	}
	values, ok := v.([]any)
	var out []string
	for _, e := range values {
		s, text := e.(string)
		ok = ok && text
		out = append(out, s)
	}
	return out, ok
}

// pairs reads an object of name to string or list of strings, or, if many, a
// list of such objects; false if it is something else.
func pairs(d map[string]any, field string, many bool) (out [][2]string, ok bool) {
	v, there := d[field]
	if !there {
		return nil, true
	}
	objects, isList := v.([]any)
	if !isList || !many {
		objects = []any{v}
	}
	ok = true
	for _, o := range objects {
		m, isObject := o.(map[string]any)
		ok = ok && isObject
		for name, value := range m {
			values, isList := value.([]any)
			if !isList {
				values = []any{value}
			}
			for _, e := range values {
				s, text := e.(string)
				ok = ok && text
				out = append(out, [2]string{name, s})
			}
		}
	}
	return out, ok
}
