package extauthz

import (
	"strings"
	"unicode/utf8"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
)

// rawHeaders moves the headers of an HTTP request from header_map to headers,
// where policies, records and traces look for them: names in lower case,
// several values joined by a comma, as Envoy does it.
//
// The filters that the build inserts send raw headers, because in the other
// form Envoy writes "!" for each byte that is not UTF-8: the policy would judge
// another value than the backend gets. A request with such a value is denied;
// its record shows U+FFFD in the place of the bytes.
func rawHeaders(req *authv3.CheckRequest) *denial {
	h := req.GetAttributes().GetRequest().GetHttp()
	if h.GetHeaderMap() == nil {
		return nil
	}
	var fault *denial
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
			value = before + "," + value
		}
		h.Headers[name] = value
	}
	return fault
}
