package integration

import (
	"fmt"
	"math/rand/v2"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	templatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// routeBuilder makes one route.
type routeBuilder struct {
	r     *rand.Rand
	match *routev3.RouteMatch
	aim   aim
	kinds []string
}

func (b *routeBuilder) kind(format string, args ...any) {
	b.kinds = append(b.kinds, fmt.Sprintf(format, args...))
}

// path chooses what the route asks of the path, and says whether that is true
// of most.
func (b *routeBuilder) path() (broad bool) {
	m := b.match
	switch k := b.r.IntN(16); {
	case k < 3:
		p := one(b.r, genPaths)
		m.PathSpecifier, b.aim.path = &routev3.RouteMatch_Path{Path: p}, p
		b.kind("path")
	case k < 6:
		p := one(b.r, genPrefixes)
		m.PathSpecifier, b.aim.path = &routev3.RouteMatch_Prefix{Prefix: p}, p+one(b.r, []string{"", "x", "/x"})
		b.kind("prefix")
		broad = len(p) < 2
	case k < 9:
		p := one(b.r, genParted)
		m.PathSpecifier, b.aim.path = &routev3.RouteMatch_PathSeparatedPrefix{PathSeparatedPrefix: p}, p+one(b.r, []string{"", "/", "/x", "x"})
		b.kind("path_separated_prefix")
	case k < 10:
		re, sample := randomRegex(b.r, pathAtoms)
		m.PathSpecifier, b.aim.path = &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: "/" + re}}, "/"+sample
		b.kind("safe_regex, random")
		broad = true
	case k < 12:
		e := one(b.r, genRegexes)
		m.PathSpecifier, b.aim.path = &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: e.re}}, one(b.r, e.samples)
		b.kind("safe_regex")
		broad = e.re == ".*" || e.re == "/[^/]+" || e.re == "/[^a]*"
	case k < 13:
		template, sample := randomTemplate(b.r)
		m.PathSpecifier = &routev3.RouteMatch_PathMatchPolicy{PathMatchPolicy: &corev3.TypedExtensionConfig{
			Name: "template", TypedConfig: pack(&templatev3.UriTemplateMatchConfig{PathTemplate: template}),
		}}
		b.aim.path = sample
		b.kind("uri_template, random")
		broad = true
	case k < 15:
		e := one(b.r, genTemplates)
		m.PathSpecifier = &routev3.RouteMatch_PathMatchPolicy{PathMatchPolicy: &corev3.TypedExtensionConfig{
			Name: "template", TypedConfig: pack(&templatev3.UriTemplateMatchConfig{PathTemplate: e.template}),
		}}
		b.aim.path = one(b.r, e.samples)
		b.kind("uri_template")
		broad = e.template == "/**"
	default:
		m.PathSpecifier = &routev3.RouteMatch_ConnectMatcher_{ConnectMatcher: &routev3.RouteMatch_ConnectMatcher{}}
		b.aim.method, b.aim.path = "CONNECT", ""
		b.kind("connect_matcher")
		broad = true
	}
	if chance(b.r, 25) {
		m.CaseSensitive = wrapperspb.Bool(chance(b.r, 20))
		b.kind("case_sensitive: %t", m.GetCaseSensitive().GetValue())
	}
	return broad
}

func (b *routeBuilder) condition() {
	switch k := b.r.IntN(20); {
	case k < 11:
		b.header()
	case k < 15:
		b.parameter()
	case k < 17:
		b.cookie()
	case k < 18:
		b.match.Grpc = &routev3.RouteMatch_GrpcRouteMatchOptions{}
		b.aim.headers = append(b.aim.headers, [2]string{"content-type", one(b.r, []string{
			"application/grpc", "application/grpc+proto", "application/grpc-web", "application/grpc;x", "Application/grpc",
		})})
		b.kind("grpc")
	case k < 19:
		b.match.RuntimeFraction = &corev3.RuntimeFractionalPercent{DefaultValue: &typev3.FractionalPercent{Numerator: 100}}
		b.kind("runtime_fraction of all")
	default:
		b.match.TlsContext = &routev3.RouteMatch_TlsContextMatchOptions{Presented: wrapperspb.Bool(chance(b.r, 30))}
		b.kind("tls_context.presented: %t", b.match.GetTlsContext().GetPresented().GetValue())
	}
}

func (b *routeBuilder) header() {
	h := &routev3.HeaderMatcher{Name: one(b.r, genNames), InvertMatch: chance(b.r, 25), TreatMissingHeaderAsEmpty: chance(b.r, 25)}
	text, sample, kind := one(b.r, genTexts), "", ""
	switch b.r.IntN(10) {
	case 0:
		h.HeaderMatchSpecifier, sample, kind = &routev3.HeaderMatcher_ExactMatch{ExactMatch: one(b.r, []string{"", text})}, text, "exact_match"
	case 1:
		h.HeaderMatchSpecifier, sample, kind = &routev3.HeaderMatcher_PrefixMatch{PrefixMatch: text}, text+"x", "prefix_match"
	case 2:
		h.HeaderMatchSpecifier, sample, kind = &routev3.HeaderMatcher_SuffixMatch{SuffixMatch: text}, "x"+text, "suffix_match"
	case 3:
		h.HeaderMatchSpecifier, sample, kind = &routev3.HeaderMatcher_ContainsMatch{ContainsMatch: text}, "x"+text+"x", "contains_match"
	case 4:
		e := one(b.r, genValues)
		h.HeaderMatchSpecifier, sample, kind = &routev3.HeaderMatcher_SafeRegexMatch{SafeRegexMatch: &matcherv3.RegexMatcher{Regex: e.re}}, one(b.r, e.samples), "safe_regex_match"
	case 5:
		h.HeaderMatchSpecifier, kind = &routev3.HeaderMatcher_RangeMatch{RangeMatch: &typev3.Int64Range{Start: -5, End: 11}}, "range_match"
		sample = one(b.r, []string{"-5", "+10", "11", "0x1", "1.0", "9223372036854775808", "-9223372036854775808", "007", "1 ", "- 1", "+", ""})
	case 6:
		h.HeaderMatchSpecifier, kind = &routev3.HeaderMatcher_PresentMatch{PresentMatch: chance(b.r, 70)}, "present_match"
		sample = one(b.r, []string{"x", ""})
	case 7:
		kind, sample = "present unsaid", "x"
	default:
		var m *matcherv3.StringMatcher
		m, sample, kind = b.text()
		h.HeaderMatchSpecifier, kind = &routev3.HeaderMatcher_StringMatch{StringMatch: m}, "string_match "+kind
	}
	b.match.Headers = append(b.match.Headers, h)
	b.aim.header(b.r, h.GetName(), sample)
	b.kind("header: %s", kind)
	kind, _, _ = strings.Cut(kind, " ")
	if h.GetInvertMatch() {
		b.kind("header: invert_match of %s", kind)
	}
	if h.GetTreatMissingHeaderAsEmpty() {
		b.kind("header: treat_missing_header_as_empty of %s", kind)
	}
}

// header adds a header to what the request looks like.
func (a *aim) header(r *rand.Rand, name, value string) {
	switch name = strings.ToLower(name); name {
	case ":method":
		if value != "" && !strings.ContainsFunc(value, func(c rune) bool { return c < '0' || c > 'z' }) {
			a.method = value
		}
	case ":path":
		if strings.HasPrefix(value, "/") {
			a.path = value
		}
	case ":authority", "host", ":scheme":
	case "cookie":
		a.cookies = append(a.cookies, value)
	default:
		if !chance(r, 15) {
			a.headers = append(a.headers, [2]string{name, value})
		}
	}
}

// text is a StringMatcher, a value that it may match, and its kind.
func (b *routeBuilder) text() (*matcherv3.StringMatcher, string, string) {
	m, text := &matcherv3.StringMatcher{IgnoreCase: chance(b.r, 40)}, one(b.r, genTexts)
	sample, kind := text, ""
	switch b.r.IntN(5) {
	case 0:
		m.MatchPattern, kind = &matcherv3.StringMatcher_Exact{Exact: one(b.r, []string{text, text, ""})}, "exact"
	case 1:
		m.MatchPattern, sample, kind = &matcherv3.StringMatcher_Prefix{Prefix: text}, text+"x", "prefix"
	case 2:
		m.MatchPattern, sample, kind = &matcherv3.StringMatcher_Suffix{Suffix: text}, "x"+text, "suffix"
	case 3:
		m.MatchPattern, sample, kind = &matcherv3.StringMatcher_Contains{Contains: text}, "x"+text+"x", "contains"
	case 4:
		if chance(b.r, 50) {
			re, sample := randomRegex(b.r, valueAtoms)
			return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{
				SafeRegex: &matcherv3.RegexMatcher{Regex: re},
			}}, sample, "safe_regex, random"
		}
		e := one(b.r, genValues)
		m.MatchPattern = &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: e.re}}
		return &matcherv3.StringMatcher{MatchPattern: m.MatchPattern}, one(b.r, e.samples), "safe_regex"
	}
	if m.IgnoreCase {
		b.kind("ignore_case: %s", kind)
		sample = one(b.r, []string{sample, strings.ToUpper(sample)})
	}
	return m, sample, kind
}

func (b *routeBuilder) parameter() {
	q := &routev3.QueryParameterMatcher{Name: one(b.r, []string{"q", "Q", "id", "a b", "%71", "é"})}
	sample := "x"
	switch b.r.IntN(4) {
	case 0:
		b.kind("query: present unsaid")
	case 1:
		q.QueryParameterMatchSpecifier = &routev3.QueryParameterMatcher_PresentMatch{PresentMatch: chance(b.r, 60)}
		b.kind("query: present_match: %t", q.GetPresentMatch())
	default:
		m, s, kind := b.text()
		q.QueryParameterMatchSpecifier, sample = &routev3.QueryParameterMatcher_StringMatch{StringMatch: m}, s
		b.kind("query: %s", kind)
	}
	b.match.QueryParameters = append(b.match.QueryParameters, q)
	b.aim.query = append(b.aim.query, strings.ReplaceAll(q.GetName()+"="+sample, " ", "+"))
}

func (b *routeBuilder) cookie() {
	m, sample, kind := b.text()
	c := &routev3.CookieMatcher{Name: one(b.r, []string{"sid", "SID", "x"}), StringMatch: m, InvertMatch: chance(b.r, 25)}
	b.match.Cookies = append(b.match.Cookies, c)
	b.aim.cookies = append(b.aim.cookies, c.GetName()+"="+one(b.r, []string{sample, sample, `"` + sample + `"`, sample + " "}))
	b.kind("cookie: %s", kind)
	if c.GetInvertMatch() {
		b.kind("cookie: invert_match")
	}
}

func (b *routeBuilder) action(x *routev3.Route) {
	switch b.r.IntN(5) {
	case 0:
		x.Action = direct(418)
		b.kind("direct_response")
	case 1:
		x.Action = &routev3.Route_Redirect{Redirect: &routev3.RedirectAction{
			PathRewriteSpecifier: &routev3.RedirectAction_PathRedirect{PathRedirect: "/elsewhere"},
		}}
		b.kind("redirect")
	case 2:
		x.Action = &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_WeightedClusters{
			WeightedClusters: &routev3.WeightedCluster{Clusters: []*routev3.WeightedCluster_ClusterWeight{
				{Name: "backend", Weight: wrapperspb.UInt32(3)}, {Name: "authz", Weight: wrapperspb.UInt32(1)},
			}},
		}}}
		b.kind("weighted_clusters")
	default:
		a := &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: "backend"}}
		if chance(b.r, 40) && b.match.GetPathMatchPolicy() == nil {
			a.RegexRewrite = &matcherv3.RegexMatchAndSubstitute{Pattern: &matcherv3.RegexMatcher{Regex: "^/a"}, Substitution: "/b"}
			b.kind("cluster with regex_rewrite")
		} else {
			b.kind("cluster")
		}
		x.Action = &routev3.Route_Route{Route: a}
	}
}
