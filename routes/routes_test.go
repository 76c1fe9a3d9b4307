package routes_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	templatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"

	"meshseal/routes"
)

func compile(t *testing.T, text string) *routes.Table {
	t.Helper()
	m := new(routev3.RouteConfiguration)
	if err := prototext.Unmarshal([]byte(text), m); err != nil {
		t.Fatal(err)
	}
	table, err := routes.Compile(m)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestVirtualHostOfADomain(t *testing.T) {
	host := func(name string, domains ...string) string {
		return fmt.Sprintf(`virtual_hosts {name: %q domains: "%s" routes {name: %q match {prefix: "/"}}} `, name, strings.Join(domains, `" domains: "`), name)
	}
	all := host("exact", "a.test", "B.test:80") + host("suffix", "*.test", "*.a.test") + host("longer", "*.deep.a.test") + host("begin", "a.*", "api.a.*")
	for _, c := range []struct{ table, authority, want string }{
		{all, "a.test", "exact"}, {all, "A.TEST", "exact"}, {all, "b.test:80", "exact"}, {all, "b.test", "suffix"},
		{all, "x.deep.a.test", "longer"}, {all, ".deep.a.test", "suffix"}, {all, "x.deep.a.test:80", ""},
		{all, "a.com", "begin"}, {all, "a.", ""}, {all, "a.test:80", "begin"}, {all, "other", ""}, {all, "", ""},
		{all + host("any", "*"), "other", "any"}, {all + host("any", "*"), "", "any"}, {host("any", "*"), "", "any"},
		{all + "ignore_port_in_host_matching: true", "a.test:80", "exact"},
		{all + "ignore_port_in_host_matching: true", "x.a.test:odd", "suffix"},
		{host("six", "[::1]") + "ignore_port_in_host_matching: true", "[::1]:80", "six"},
		{host("six", "[::1]") + "ignore_port_in_host_matching: true", "[::1]", "six"},
	} {
		got, ok := compile(t, `name: "t" `+c.table).Match(&routes.Request{Authority: c.authority, Path: "/", Headers: proto()})
		if ok != (c.want != "") || got.Name != c.want {
			t.Errorf("%q takes %q (%t), want %q", c.authority, got.Name, ok, c.want)
		}
	}
}

func TestRequireTLSAnswersBeforeARoute(t *testing.T) {
	table := func(rule string) *routes.Table {
		return compile(t, `virtual_hosts {name: "v" domains: "*" require_tls: `+rule+` routes {name: "r" match {prefix: "/"}}}`)
	}
	for _, c := range []struct {
		rule  string
		h     routes.HeaderMap
		route int
		ok    bool
	}{
		{"ALL", routes.HeaderMap{"x-forwarded-proto": {"https"}}, 0, true},
		{"ALL", proto(), -1, true},
		{"ALL", proto("x-envoy-internal", "true"), -1, true},
		{"EXTERNAL_ONLY", proto("x-envoy-internal", "true"), 0, true},
		{"EXTERNAL_ONLY", proto("x-envoy-internal", "TRUE"), -1, true},
		{"EXTERNAL_ONLY", proto(), -1, true},
		{"NONE", nil, 0, false},
	} {
		got, ok := table(c.rule).Match(&routes.Request{Path: "/", Headers: c.h})
		if ok != c.ok || ok && got.Route != c.route {
			t.Errorf("%s with %v: %+v, %t", c.rule, c.h, got, ok)
		}
	}
}

// TestUnsupportedIsNamed: what cannot be matched again is refused with the
// place where it stands, all of it at once.
func TestUnsupportedIsNamed(t *testing.T) {
	for _, c := range []struct{ match, field string }{
		{`prefix: "/" runtime_fraction {default_value {numerator: 50}}`, "match.runtime_fraction"},
		{`prefix: "/" runtime_fraction {default_value {numerator: 100 denominator: TEN_THOUSAND}}`, "match.runtime_fraction"},
		{`prefix: "/" dynamic_metadata {filter: "f"}`, "match.dynamic_metadata"},
		{`prefix: "/" filter_state {key: "k"}`, "match.filter_state"},
		{`prefix: "/" tls_context {validated {value: true}}`, "match.tls_context.validated"},
		{`prefix: "/" headers {name: "a"} headers {name: "x-request-id" string_match {prefix: "a"}}`, "match.headers[1]"},
		{`prefix: "/" headers {name: "X-Envoy-Decorator-Operation"}`, "match.headers[0]"},
		{`prefix: "/" headers {name: "a" string_match {custom {name: "lua"}}}`, "match.headers[0]"},
		{`prefix: "/" headers {name: "a" string_match {}}`, "match.headers[0]"},
		{`prefix: "/" query_parameters {name: "q" string_match {safe_regex {regex: "\\C"}}}`, "match.query_parameters[0]"},
		{`prefix: "/" cookies {name: "q" string_match {safe_regex {regex: "("}}}`, "match.cookies[0]"},
		{`safe_regex {regex: "/\\Qa"}`, "match.safe_regex"},
		{`safe_regex {regex: "a)(b"}`, "match.safe_regex"},
		{`safe_regex {regex: "(?i)é"}`, "match.safe_regex"},
		{`safe_regex {regex: "(?s-U:(?mi)\\xe9)"}`, "match.safe_regex"},
		{`path_match_policy {name: "other"}`, "match.path_match_policy"},
		{``, "match"},
	} {
		m := new(routev3.RouteConfiguration)
		text := `name: "t" virtual_hosts {name: "v" domains: "*" routes {name: "fine" match {prefix: "/a"}} routes {name: "r" match {` + c.match + `}}}`
		if err := prototext.Unmarshal([]byte(text), m); err != nil {
			t.Fatal(err)
		}
		_, err := routes.Compile(m)
		var u *routes.Unsupported
		if !errors.As(err, &u) || u.Field != c.field || u.Table != "t" || u.VirtualHost != "v" || u.Route != 1 || u.Name != "r" || u.Reason == "" {
			t.Errorf("%s: %v", c.match, err)
		}
	}
}

func TestEverythingUnsupportedIsNamedAtOnce(t *testing.T) {
	bad := &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: "("}}, DynamicMetadata: []*matcherv3.MetadataMatcher{{}}}
	_, err := routes.Compile(tableOf(2, 2, func(_, _ int) *routev3.RouteMatch { return bad }))
	var all routes.Refusal
	if !errors.As(err, &all) || len(all) != 8 || all[7].VirtualHost != "v1" || all[7].Route != 1 || strings.Count(err.Error(), "\n") != 7 {
		t.Errorf("%v", err)
	}
}

func TestUnsupportedOutsideRoutesIsNamed(t *testing.T) {
	for _, c := range []struct{ table, want string }{
		{`vhds {}`, `route table "t": vhds: `},
		{`vhost_header: "x-host"`, `route table "t": vhost_header: `},
		{`virtual_hosts {name: "v" domains: "*" matcher {}}`, `route table "t", virtual host "v": matcher: `},
		{`virtual_hosts {name: "v" domains: "*"} virtual_hosts {name: "w" domains: "*"}`, `route table "t", virtual host "w": domains: `},
		{`virtual_hosts {name: "v" domains: "A" domains: "a"}`, `route table "t", virtual host "v": domains: `},
		{`virtual_hosts {name: "v" domains: "*" routes {name: "r" match {prefix: "/"} route {cluster_specifier_plugin: "p"}}}`,
			`route table "t", virtual host "v", route 0 "r": route.cluster_specifier_plugin: `},
	} {
		m := new(routev3.RouteConfiguration)
		if err := prototext.Unmarshal([]byte(`name: "t" `+c.table), m); err != nil {
			t.Fatal(err)
		}
		if _, err := routes.Compile(m); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %v", c.table, err)
		}
	}
}

func TestTemplatesThatEnvoyReadsOtherwiseAreRefused(t *testing.T) {
	for _, s := range []string{
		"", "x", "/a*b", "/*-*", "/{a}*", "/a**", "/**/*", "/{a=**}/{b}", "/{a}/{a}", "/{a}/{b}/{c}/{d}/{e}/{f}",
		"/{averyveryverylongname}", "/{1a}", "/{a", "/{a=}", "/{a=b*}", "/a|b", "/é", "/a b",
	} {
		policy, err := anypb.New(&templatev3.UriTemplateMatchConfig{PathTemplate: s})
		if err != nil {
			t.Fatal(err)
		}
		m := &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_PathMatchPolicy{PathMatchPolicy: &corev3.TypedExtensionConfig{TypedConfig: policy}}}
		if _, err := routes.Compile(tableOf(1, 1, func(_, _ int) *routev3.RouteMatch { return m })); err == nil {
			t.Errorf("the template %q is taken", s)
		}
	}
}

func TestHeadersThatATableReads(t *testing.T) {
	table := compile(t, `virtual_hosts {name: "v" domains: "*" require_tls: ALL routes {match {
		prefix: "/" headers {name: "X-B"} headers {name: "x-a"} grpc {} cookies {name: "c" string_match {exact: "1"}}}}}`)
	if got := strings.Join(table.Headers(), " "); got != "content-type cookie x-a x-b x-forwarded-proto" {
		t.Errorf("%q", got)
	}
}

// TestIndexKeepsTheOrder: however many routes a virtual host has, the first
// that a plain walk through tables of one route finds is the one that Match
// takes.
func TestIndexKeepsTheOrder(t *testing.T) {
	piece := rapid.SampledFrom([]string{"/", "a", "b", "/a", "/b", ";", "aa"})
	word := rapid.Custom(func(t *rapid.T) string { return "/" + strings.Join(rapid.SliceOfN(piece, 0, 30).Draw(t, "pieces"), "") })
	match := rapid.Custom(func(t *rapid.T) *routev3.RouteMatch {
		w := word.Draw(t, "word")
		m := rapid.SampledFrom([]*routev3.RouteMatch{
			exact(w), prefix(w), regex(w + ".*"), regex("(" + w + "|/b.*)"),
			{PathSpecifier: &routev3.RouteMatch_PathSeparatedPrefix{PathSeparatedPrefix: w}},
			{PathSpecifier: &routev3.RouteMatch_ConnectMatcher_{ConnectMatcher: &routev3.RouteMatch_ConnectMatcher{}}},
		}).Draw(t, "match")
		if rapid.Bool().Draw(t, "fold") {
			m.CaseSensitive = wrapperspb.Bool(false)
		}
		if rapid.IntRange(0, 3).Draw(t, "header") == 0 {
			m.Headers = []*routev3.HeaderMatcher{{Name: "x-a", HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{
				StringMatch: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: "1"}},
			}}}
		}
		return m
	})
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(match, 9, 60).Draw(t, "routes")
		ask := &routes.Request{
			Authority: "h0.test", Path: word.Draw(t, "path"), Headers: proto("x-a", rapid.SampledFrom([]string{"1", "2"}).Draw(t, "x-a")),
			Method: rapid.SampledFrom([]string{"GET", "CONNECT"}).Draw(t, "method"),
		}
		semi := rapid.Bool().Draw(t, "ignore parameters")
		ask1 := func(m *routev3.RouteConfiguration) (routes.Choice, bool) {
			m.IgnorePathParametersInPathMatching = semi
			table, err := routes.Compile(m)
			if err != nil {
				t.Fatal(err)
			}
			return table.Match(ask)
		}
		want := -1
		for i := range all {
			if _, ok := ask1(tableOf(1, 1, func(_, _ int) *routev3.RouteMatch { return all[i] })); ok {
				want = i
				break
			}
		}
		got, ok := ask1(tableOf(1, len(all), func(_, j int) *routev3.RouteMatch { return all[j] }))
		if ok != (want >= 0) || ok && got.Route != want {
			t.Fatalf("route %d (%t), want %d", got.Route, ok, want)
		}
	})
}
