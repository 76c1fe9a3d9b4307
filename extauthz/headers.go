package extauthz

import (
	"strings"
	"unicode/utf8"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"meshseal/routes"
)

// rawHeaders moves the headers of an HTTP request from header_map to headers,
// where policies, records and traces look for them: names in lower case,
// several values joined by a comma, as Envoy does it.
//
// The filters that the build inserts send raw headers, because in the other
// form Envoy writes "!" for each byte that is not UTF-8: the policy would judge
// another value than the backend gets. A request with such a value is denied;
// its record shows U+FFFD in the place of the bytes.
//
// What it returns has each value by itself, as the match of a route needs them.
func rawHeaders(req *authv3.CheckRequest) (headerValues, *denial) {
	h := req.GetAttributes().GetRequest().GetHttp()
	if h.GetHeaderMap() == nil {
		return headerValues{single: h.GetHeaders()}, nil
	}
	var fault *denial
	var repeated map[string][]string
	if len(h.GetHeaders()) > 0 {
		fault = deny(RequestMalformed, "the headers arrived in two forms")
	}
	raw := h.GetHeaderMap().GetHeaders()
	h.HeaderMap, h.Headers = nil, make(map[string]string, len(raw))
	for _, v := range raw {
		name, value := strings.ToLower(v.GetKey()), v.GetValue()
		if len(v.GetRawValue()) > 0 {
			value = string(v.GetRawValue())
		}
		if !utf8.ValidString(value) {
			value = strings.ToValidUTF8(value, "\uFFFD")
			fault = deny(RequestMalformed, "the header %q is not UTF-8", name)
		}
		if before, ok := h.Headers[name]; ok {
			repeated = repeat(repeated, name, before, value)
			value = before + "," + value
		}
		h.Headers[name] = value
	}
	return headerValues{single: h.Headers, repeated: repeated}, fault
}

// repeat adds a further value of a header to all; before is what came of it
// until then, joined, which is the first value if all has none.
func repeat(all map[string][]string, name, before, value string) map[string][]string {
	if all == nil {
		all = map[string][]string{}
	}
	if len(all[name]) == 0 {
		all[name] = []string{before}
	}
	all[name] = append(all[name], value)
	return all
}

// headerValues are the headers of a request by name.
type headerValues struct {
	single   map[string]string
	repeated map[string][]string // those that came more than once
}

var _ routes.Headers = headerValues{}

// Value is as in [routes.Headers].
func (v headerValues) Value(name string, i int) (string, bool) {
	if all, ok := v.repeated[name]; ok {
		if i < len(all) {
			return all[i], true
		}
		return "", false
	}
	if i > 0 {
		return "", false
	}
	value, ok := v.single[name]
	return value, ok
}

// matchable is an HTTP request as a route table is asked about it; nil for TCP.
func matchable(a *authv3.AttributeContext, h routes.Headers) *routes.Request {
	http := a.GetRequest().GetHttp()
	if http == nil {
		return nil
	}
	return &routes.Request{
		Authority: http.GetHost(), Path: http.GetPath(), Method: http.GetMethod(), Scheme: http.GetScheme(),
		Headers: h, PeerCertificate: a.GetSource().GetCertificate() != "",
	}
}
