package integration

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/encoding/prototext"
)

// routeRules are the rules that docs/routes.md states and nobody would guess:
// what a match takes and what it does not. A request is "PATH name: value|…".
var routeRules = []struct {
	match   string
	yes, no []string
}{
	{header(`string_match {exact: "1"}`), []string{"/ x-a: 1", "/ x-a: 1|x-a: 2", "/ x-a: 2|x-a: 1"}, []string{"/ x-a: 1,2", "/ x-a: 2", "/"}},
	{header(`string_match {exact: "1,2"}`), []string{"/ x-a: 1,2"}, []string{"/ x-a: 1|x-a: 2"}},
	{header(`string_match {exact: "1"} invert_match: true`), []string{"/ x-a: 2", "/ x-a: 2|x-a: 3"}, []string{"/ x-a: 1|x-a: 2", "/"}},
	{header(`range_match {start: 0 end: 2}`), []string{"/ x-a: 0", "/ x-a: +1", "/ x-a: x|x-a: 1"}, []string{"/ x-a: 2", "/ x-a: 1.0", "/ x-a: 0x1", "/ x-a: "}},
	{header(`present_match: false`), []string{"/"}, []string{"/ x-a: ", "/ x-a: 1"}},
	{header(`present_match: true treat_missing_header_as_empty: true`), []string{"/", "/ x-a: "}, nil},
	{header(`string_match {exact: ""} treat_missing_header_as_empty: true`), []string{"/", "/ x-a: "}, []string{"/ x-a: 1"}},
	{header(`exact_match: ""`), []string{"/ x-a: ", "/ x-a: 1"}, []string{"/"}},
	{header(`string_match {exact: "FOO" ignore_case: true}`), []string{"/ x-a: foo"}, []string{"/ x-a: f\u00f6o"}},
	{header(`string_match {safe_regex {regex: "."}}`), []string{"/ x-a: \xe9", "/ x-a: a"}, []string{"/ x-a: é"}},
	{header(`string_match {safe_regex {regex: "é"}}`), []string{"/ x-a: é"}, []string{"/ x-a: \xe9", "/ x-a: É"}},
	{header(`string_match {safe_regex {regex: "[é]"}}`), []string{"/ x-a: \xc3"}, []string{"/ x-a: é"}},
	{header(`string_match {safe_regex {regex: "a"}}`), []string{"/ x-a: a"}, []string{"/ x-a: ab", "/ x-a: ba"}},
	{`prefix: "/" headers {name: "cookie" string_match {exact: "a=1"}}`, []string{"/ cookie: a=1|cookie: b=2"}, []string{"/ cookie: a=1; b=2"}},
	{`prefix: "/" cookies {name: "a" string_match {exact: "1"}}`,
		[]string{"/ cookie: a=1; a=2", "/ cookie: b=2|cookie: a=1", `/ cookie: a="1"`, "/ cookie: x; a=1"},
		[]string{"/ cookie: a=2; a=1", "/ cookie: a=2|cookie: a=1", "/ cookie: a= 1", "/ cookie: a =1", "/ cookie: A=1", "/"}},
	{`prefix: "/" cookies {name: "a" string_match {exact: "1"} invert_match: true}`, []string{"/", "/ cookie: a=2"}, []string{"/ cookie: a=1"}},
	{`prefix: "/" query_parameters {name: "q" string_match {exact: "1"}}`,
		[]string{"/?q=1", "/?q=1&q=2", "/?x&q=1"}, []string{"/?q=2&q=1", "/?q=%31", "/?%71=1", "/?Q=1", "/?q", "/;q=1", "/"}},
	{`prefix: "/" query_parameters {name: "q" string_match {exact: ""}}`, []string{"/?q", "/?q=", "/?a&q&b"}, []string{"/?q=1", "/"}},
	{`prefix: "/" query_parameters {name: "q" present_match: false}`, []string{"/", "/?x=q"}, []string{"/?q", "/?q=1"}},
	{`prefix: "/" grpc {}`, []string{"/ content-type: application/grpc", "/ content-type: application/grpc+proto"},
		[]string{"/ content-type: application/grpc-web", "/ content-type: application/grpc;a=b", "/ content-type: Application/grpc", "/"}},
	{`prefix: "/" runtime_fraction {default_value {}}`, nil, []string{"/"}},
	{`prefix: "/" runtime_fraction {default_value {numerator: 100}}`, []string{"/"}, nil},
	{`path: "/a"`, []string{"/a", "/a?b", "//a", "/x/../a", "/./a", "/%61"}, []string{"/a/", "/A", "/a;b", "/a%20"}},
	{`path: "/a" case_sensitive {}`, []string{"/a", "/A"}, []string{"/a/"}},
	{`prefix: "/a"`, []string{"/a", "/ab", "/a/b", "/a;b"}, []string{"/", "/A", "/?/a"}},
	{`path_separated_prefix: "/a"`, []string{"/a", "/a/", "/a/b", "/a?x"}, []string{"/ab", "/a;b", "/"}},
	{`safe_regex {regex: "/a.*b"}`, []string{"/ab", "/a/b", "/a/b?c"}, []string{"/a/b/c", "/a?b"}},
	{template("/a/*"), []string{"/a/b", "/a/b;c", "/a/b=c*d", "/a/|"}, []string{"/a/", "/a/b/c", "/a/[", "/a"}},
	{template("/a/**"), []string{"/a/", "/a/b/c"}, []string{"/a", "/a/b/[/c"}},
	{template("/v{version}/{id}.json"), []string{"/v1/2.json"}, []string{"/v/2.json", "/v1/.json", "/1/2.json"}},
	{template("/a/{x=b/*}/c"), []string{"/a/b/1/c"}, []string{"/a/b/c", "/a/1/c"}},
}

func header(rest string) string { return `prefix: "/" headers {name: "x-a" ` + rest + `}` }

func template(s string) string {
	return fmt.Sprintf(`path_match_policy {name: "t" typed_config {
		[type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig] {path_template: %q}}}`, s)
}

// ruleTable has a virtual host rN.test for each match, whose route N takes
// what matches; the rest goes to "last".
func ruleTable(matches []*routev3.RouteMatch) *genTable {
	g := &genTable{
		config: &routev3.RouteConfiguration{Name: "rules"}, inbound: true,
		escapedSlashes: hcmv3.HttpConnectionManager_REJECT_REQUEST, underscores: corev3.HttpProtocolOptions_REJECT_REQUEST,
		kinds: map[string][]string{}, byName: map[string]*routev3.Route{},
	}
	for i, m := range matches {
		v := &routev3.VirtualHost{Name: fmt.Sprintf("r%d", i), Domains: []string{fmt.Sprintf("r%d.test", i)}}
		g.add(v, &routev3.Route{Name: fmt.Sprint(i), Match: m, Action: direct(404)}, "a match")
		g.add(v, &routev3.Route{Name: fmt.Sprintf("%d-last", i), Match: &routev3.RouteMatch{
			PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"},
		}, Action: direct(404)}, "last")
		g.config.VirtualHosts = append(g.config.VirtualHosts, v)
	}
	return g
}

// ruleRequest is a request for the virtual host of a match.
func ruleRequest(match int, request string) *genRequest {
	path, headers, _ := strings.Cut(request, " ")
	q := &genRequest{method: "GET", target: path, version: "HTTP/1.1", headers: [][2]string{{"Host", fmt.Sprintf("r%d.test", match)}}}
	for h := range strings.SplitSeq(headers, "|") {
		if name, value, ok := strings.Cut(h, ": "); ok {
			q.headers = append(q.headers, [2]string{name, value})
		}
	}
	return q
}

// TestRouteRulesAreThoseOfEnvoy pins the rules on the real Envoy and on Match
// at once.
func TestRouteRulesAreThoseOfEnvoy(t *testing.T) {
	t.Parallel()
	var matches []*routev3.RouteMatch
	for _, rule := range routeRules {
		m := new(routev3.RouteMatch)
		if err := prototext.Unmarshal([]byte(rule.match), m); err != nil {
			t.Fatalf("%s: %v", rule.match, err)
		}
		matches = append(matches, m)
	}
	w := newRouteWorld(t, ruleTable(matches))
	c := w.client(0, false, false)
	defer c.close()
	for i, rule := range routeRules {
		check := func(requests []string, want string) {
			for _, r := range requests {
				w.oracle.last = "nothing"
				if status, err := c.do(ruleRequest(i, r)); err != nil || w.oracle.last != want {
					t.Errorf("%s: %q: Envoy chose %q (status %d, %v), want %q", rule.match, r, w.oracle.last, status, err, want)
				}
			}
		}
		check(rule.yes, fmt.Sprint(i))
		check(rule.no, fmt.Sprintf("%d-last", i))
	}
	for _, d := range w.oracle.differ {
		t.Error(d)
	}
}

// TestExpressionsAgreeWithEnvoy compares Go's regular expressions with Envoy's
// RE2 on generated expressions, with texts made for others too.
func TestExpressionsAgreeWithEnvoy(t *testing.T) {
	t.Parallel()
	n, seed := number(t, "ROUTES_REQUESTS", quickRequests)/4, uint64(number(t, "ROUTES_SEED", 1))
	r := rand.New(rand.NewPCG(seed, 99))
	var matches []*routev3.RouteMatch
	var samples []string
	for range max(200, min(n/25, 2000)) {
		re, sample := randomRegex(r, valueAtoms)
		matches = append(matches, &routev3.RouteMatch{
			PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"},
			Headers: []*routev3.HeaderMatcher{{Name: "x-a", HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{
				StringMatch: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{
					SafeRegex: &matcherv3.RegexMatcher{Regex: re},
				}},
			}}},
		})
		samples = append(samples, sample)
	}
	w := newRouteWorld(t, ruleTable(matches))
	c := w.client(0, true, false)
	defer c.close()
	for w.oracle.wants(n) {
		at := r.IntN(len(matches))
		value := samples[at]
		switch r.IntN(4) {
		case 0:
			value = one(r, samples)
		case 1:
			a, b := value, one(r, one(r, valueAtoms).samples)
			cut := r.IntN(len(a) + 1)
			value = a[:cut] + b + a[cut:]
		case 2:
			if len(value) > 0 {
				cut := r.IntN(len(value))
				value = value[:cut] + value[cut+1:]
			}
		}
		q := ruleRequest(at, "/")
		q.headers = append(q.headers, [2]string{"x-a", value})
		if _, err := c.do(q); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d expressions, %d values compared, %d of them matched, %d differ",
		len(matches), w.oracle.compared, w.oracle.counts["route: a match"], len(w.oracle.differ))
	if len(w.oracle.differ) > 0 {
		t.Errorf("%d differ, the first: %s", len(w.oracle.differ), w.oracle.differ[0])
	}
	if w.oracle.counts["route: a match"] < n/10 {
		t.Errorf("only %d of %d values matched", w.oracle.counts["route: a match"], n)
	}
}
