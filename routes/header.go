package routes

import (
	"errors"
	"math"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

type headerKind uint8

const (
	headerText headerKind = iota
	headerRange
	headerPresent
)

// header is a HeaderMatcher.
type header struct {
	name      string
	kind      headerKind
	invert    bool
	empty     bool // treat_missing_header_as_empty
	present   bool // what headerPresent wants
	anyIfNone bool // exact_match of "": any value will do
	text      text
	low, high int64 // of headerRange: from low, below high
}

func newHeader(m *routev3.HeaderMatcher, patterns patterns) (header, error) {
	h := header{name: lower(m.GetName()), invert: m.GetInvertMatch(), empty: m.GetTreatMissingHeaderAsEmpty()}
	if err := h.steady(m); err != nil {
		return h, err
	}
	var err error
	switch k := m.GetHeaderMatchSpecifier().(type) {
	case nil:
		h.kind, h.present = headerPresent, true
	case *routev3.HeaderMatcher_PresentMatch:
		h.kind, h.present = headerPresent, k.PresentMatch
	case *routev3.HeaderMatcher_RangeMatch:
		h.kind, h.low, h.high = headerRange, k.RangeMatch.GetStart(), k.RangeMatch.GetEnd()
	case *routev3.HeaderMatcher_StringMatch:
		h.text, err = newText(k.StringMatch, patterns)
	default:
		err = h.old(m, patterns)
	}
	return h, err
}

// steady refuses the headers that Envoy changes for tracing, after it chose the
// route and before it asks.
func (h *header) steady(m *routev3.HeaderMatcher) error {
	_, present := m.GetHeaderMatchSpecifier().(*routev3.HeaderMatcher_PresentMatch)
	switch {
	case h.name == "x-request-id" && !present && m.GetHeaderMatchSpecifier() != nil:
		return errors.New("after it chose the route, Envoy notes in x-request-id whether the request is traced")
	case h.name == "x-envoy-decorator-operation":
		return errors.New("where requests are traced, Envoy removes x-envoy-decorator-operation after it chose the route")
	}
	return nil
}

// match looks at each value by itself: one that holds is enough, and invert
// turns the result round.
func (h *header) match(r *Request) bool {
	v, ok := r.value(h.name, 0)
	if !ok {
		if !h.empty {
			return h.kind == headerPresent && h.present == h.invert
		}
		return h.holds("") != h.invert
	}
	for i := 1; ok; i++ {
		if h.holds(v) {
			return !h.invert
		}
		v, ok = r.value(h.name, i)
	}
	return h.invert
}

func (h *header) holds(v string) bool {
	switch h.kind {
	case headerPresent:
		return h.present
	case headerRange:
		n, ok := integer(v)
		return ok && h.low <= n && n < h.high
	}
	return h.anyIfNone || h.text.match(v)
}

// value is the i-th value of a header; those that HTTP/2 has as pseudo-headers
// are read from the request's own fields.
func (r *Request) value(name string, i int) (string, bool) {
	if name == "host" { // Envoy keeps Host as :authority
		name = ":authority"
	}
	v, listed := "", false
	if r.Headers != nil {
		v, listed = r.Headers.Value(name, i)
	}
	switch name {
	case ":path":
		v = r.Path
	case ":method":
		v = r.Method
	case ":scheme":
		v = r.Scheme
	case ":authority":
		v = r.Authority
	default:
		return v, listed
	}
	return v, i == 0 && (listed || v != "")
}

// isGRPC reports whether r is a gRPC request: its media type is
// application/grpc, alone or with a suffix behind "+".
func isGRPC(r *Request) bool {
	v, _ := r.value("content-type", 0)
	rest, ok := strings.CutPrefix(v, "application/grpc")
	return r.Path != "" && ok && (rest == "" || rest[0] == '+')
}

// integer reads a whole number in base 10 with or without a sign.
func integer(s string) (int64, bool) {
	s = strings.Trim(s, " \t\n\v\f\r")
	negative := false
	if s != "" && (s[0] == '-' || s[0] == '+') {
		negative, s = s[0] == '-', s[1:]
	}
	if s == "" {
		return 0, false
	}
	limit := uint64(math.MaxInt64)
	if negative {
		limit++
	}
	var n uint64
	for i := range len(s) {
		d := uint64(s[i]) - '0'
		if d > 9 || n > limit/10 || n*10+d > limit {
			return 0, false
		}
		n = n*10 + d
	}
	if negative {
		return int64(-n), true
	}
	return int64(n), true
}
