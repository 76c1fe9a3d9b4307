package integration

import (
	"fmt"
	"math/rand/v2"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	templatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"meshseal/routes"
)

// genTable is a generated route table and what a request needs to have a good
// chance at each of its routes.
type genTable struct {
	number         int
	config         *routev3.RouteConfiguration
	table          *routes.Table
	inbound        bool
	tls            bool
	stripDot       bool
	stripMatching  bool
	stripAny       bool
	escapedSlashes hcmv3.HttpConnectionManager_PathWithEscapedSlashesAction
	underscores    corev3.HttpProtocolOptions_HeadersWithUnderscoresAction
	kinds          map[string][]string // of each route, by its name
	byName         map[string]*routev3.Route
	aims           []aim
}

// aim is what a request for one route looks like.
type aim struct {
	domain  string
	path    string
	method  string
	query   []string
	cookies []string
	headers [][2]string
}

func one[T any](r *rand.Rand, of []T) T { return of[r.IntN(len(of))] }

func chance(r *rand.Rand, percent int) bool { return r.IntN(100) < percent }

var (
	genDomains = []string{
		"a.test", "B.test", "api.a.test", "www.a.test", "a.test:8080", "[::1]", "[::1]:8080", "x", "deep.api.a.test", "a.test.",
		"*.test", "*.a.test", "*-x.a.test", "*test", "*:8080", "*.API.a.test", "api.*", "a.*", "api.a.*", "[::*", "A*", "w*",
	}
	genPaths    = []string{"/", "/a", "/A", "/a/b", "/a/b/", "/items", "/items/1", "/items;x", "/é", "/a%20b", "/a.b", "/a!", "/items/1/parts"}
	genPrefixes = []string{"", "/", "/a", "/a/", "/items", "/items/", "/ITEMS", "/a;", "/é", "/items/1/parts/9"}
	genParted   = []string{"/a", "/items", "/items/1", "/Items", "/a;x", "/a/b", "/é"}
	genRegexes  = []struct {
		re      string
		samples []string
	}{
		{`/items/[0-9]+`, []string{"/items/1", "/items/42", "/items/4x"}},
		{`/a.*`, []string{"/a", "/abc", "/a/b?c"}},
		{`/[^/]+`, []string{"/x", "/x/y", "/é"}},
		{`.*`, []string{"/", "/any"}},
		{`/(a|b)/c`, []string{"/a/c", "/b/c", "/c/c"}},
		{`(?i)/items/x`, []string{"/ITEMS/X", "/items/x"}},
		{`/\w+/\d{1,3}`, []string{"/items/123", "/items/1234"}},
		{`/.+\.jpg`, []string{"/p.jpg", "/p.jpgx", "/.jpg"}},
		{`/a|/b`, []string{"/a", "/b", "/ab"}},
		{`/items/(?P<id>[a-z]+)`, []string{"/items/abc", "/items/ABC"}},
		{`/.*é`, []string{"/é", "/xé", "/x\xe9"}},
		{`(?s)/a.`, []string{"/ab", "/aé", "/a\xff"}},
		{`/[[:alpha:]]+`, []string{"/abc", "/ab1"}},
		{`/\Qa.b\E`, []string{"/a.b", "/axb"}},
		{`^/a$`, []string{"/a", "/a/"}},
		{`/a\b.*`, []string{"/a/b", "/ab"}},
		{`(?U)/a+b`, []string{"/aab", "/b"}},
		{`/\x61\/?`, []string{"/a", "/a/"}},
		{`/[^a]*`, []string{"/xyz", "/é", "/\xff"}},
		{`/(?:a{2,3}|b*)`, []string{"/aa", "/bbb", "/aaaa"}},
		{`(?i)/K[s-t]*`, []string{"/kS", "/\u212a", "/k\u017f"}},
		{`/(?m:^a$)`, []string{"/a"}},
	}
	genTemplates = []struct {
		template string
		samples  []string
	}{
		{"/items/*", []string{"/items/1", "/items/", "/items/1/2", "/items/a=b", "/items/a*b", "/items/é"}},
		{"/items/{id}", []string{"/items/1", "/items/a'b", "/items/a|b"}},
		{"/**", []string{"/", "/x/y", "/x=y", "/x*"}},
		{"/a/**", []string{"/a/", "/a/b/c", "/a"}},
		{"/a/*/b", []string{"/a/x/b", "/a//b"}},
		{"/{x=a/*}/b", []string{"/a/x/b"}},
		{"/{x=**}.jpg", []string{"/p.jpg", "/p/q.jpg", "/.jpg"}},
		{"/a/*.jpg", []string{"/a/p.jpg", "/a/.jpg"}},
		{"/*/", []string{"/a/", "/a"}},
		{"/items/{id=*}/{rest=**}", []string{"/items/1/", "/items/1/a/b"}},
		{"/", []string{"/", "/a"}},
		{"/a$b(c)+d.e", []string{"/a$b(c)+d.e", "/a$b(c)+dxe"}},
	}
	genTexts = []string{"1", "foo", "FOO", "foobar", "bar", "10", "café", "foo,bar", "o", "a.test", "GET", "POST", "/a", "http"}
	genNames = []string{"x-a", "X-B", "x-c", ":method", ":authority", "host", "Host", ":path", ":scheme", "content-type", "x-forwarded-proto", "cookie",
		"user-agent", "accept", "x-forwarded-for", "x-envoy-internal", "te", "origin", "via", "upgrade", ":protocol", "content-length", "authorization"}
	genValues = []struct {
		re      string
		samples []string
	}{
		{`fo+`, []string{"foo", "fooo", "FOO"}}, {`[0-9]+`, []string{"1", "12x"}}, {`x?`, []string{"", "x"}}, {`.*a.*`, []string{"bar", "foo"}},
		{`(?i)foo|bar`, []string{"FOO", "bar", "foobar"}}, {`caf.`, []string{"café", "caf\xe9"}}, {`[^,]+`, []string{"foo", "foo,bar"}},
	}
)

func newGenTable(r *rand.Rand, number int) *genTable {
	g := &genTable{
		number: number, inbound: chance(r, 60), tls: number%4 == 1,
		stripDot: chance(r, 20), stripMatching: chance(r, 15),
		escapedSlashes: one(r, []hcmv3.HttpConnectionManager_PathWithEscapedSlashesAction{
			hcmv3.HttpConnectionManager_REJECT_REQUEST, hcmv3.HttpConnectionManager_REJECT_REQUEST, hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD,
		}),
		underscores: one(r, []corev3.HttpProtocolOptions_HeadersWithUnderscoresAction{
			corev3.HttpProtocolOptions_REJECT_REQUEST, corev3.HttpProtocolOptions_DROP_HEADER,
		}),
		kinds: map[string][]string{}, byName: map[string]*routev3.Route{},
	}
	g.stripAny = !g.stripMatching && chance(r, 15)
	g.config = &routev3.RouteConfiguration{
		Name:                               fmt.Sprintf("table-%d", number),
		IgnorePortInHostMatching:           chance(r, 30),
		IgnorePathParametersInPathMatching: chance(r, 30),
		VirtualHosts:                       nil,
	}
	domains := append([]string(nil), genDomains...)
	r.Shuffle(len(domains), func(i, j int) { domains[i], domains[j] = domains[j], domains[i] })
	for i := range 2 + r.IntN(5) {
		n := 1 + r.IntN(3)
		g.host(r, i, domains[:n])
		domains = domains[n:]
	}
	if number%8 == 0 {
		g.config.VirtualHosts = nil
		g.aims, g.kinds = nil, map[string][]string{}
	}
	g.host(r, 9, []string{"*"})
	return g
}

func (g *genTable) host(r *rand.Rand, i int, domains []string) {
	v := &routev3.VirtualHost{Name: fmt.Sprintf("v%d", i), Domains: domains}
	if chance(r, 20) {
		v.RequireTls = one(r, []routev3.VirtualHost_TlsRequirementType{routev3.VirtualHost_ALL, routev3.VirtualHost_EXTERNAL_ONLY})
	}
	for j := range 2 + r.IntN(20) {
		g.route(r, v, fmt.Sprintf("v%d-r%d", i, j))
	}
	// As the build hardens it: every request takes some route.
	for name, m := range map[string]*routev3.RouteMatch{
		"last":    {PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		"connect": {PathSpecifier: &routev3.RouteMatch_ConnectMatcher_{ConnectMatcher: &routev3.RouteMatch_ConnectMatcher{}}},
	} {
		g.add(v, &routev3.Route{Name: v.GetName() + "-" + name, Match: m, Action: direct(404)}, "hardening's "+name)
	}
	g.config.VirtualHosts = append(g.config.VirtualHosts, v)
}

func direct(status uint32) *routev3.Route_DirectResponse {
	return &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: status}}
}

func (g *genTable) add(v *routev3.VirtualHost, x *routev3.Route, kinds ...string) {
	v.Routes = append(v.Routes, x)
	g.kinds[x.GetName()] = kinds
	g.byName[x.GetName()] = x
}

func (g *genTable) route(r *rand.Rand, v *routev3.VirtualHost, name string) {
	b := &routeBuilder{r: r, aim: aim{domain: one(r, v.GetDomains()), method: "GET"}, match: &routev3.RouteMatch{}}
	broad := b.path()
	conditions := r.IntN(3)
	if broad && conditions == 0 {
		conditions = 1 + r.IntN(2)
	}
	for range conditions {
		b.condition()
	}
	x := &routev3.Route{Name: name, Match: b.match}
	b.action(x)
	g.add(v, x, b.kinds...)
	g.aims = append(g.aims, b.aim)
}

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
		if value != "" && !strings.ContainsAny(value, " ,\xe9é/.:") {
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
		kind += " ignore_case"
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

// text is a route of the table in words.
func (g *genTable) text(name string) string {
	return prototext.MarshalOptions{}.Format(g.byName[name].GetMatch())
}

// domainKind says by what kind of domain a virtual host was found.
func (g *genTable) domainKind(host int, authority string) string {
	kinds := map[string]bool{}
	for _, d := range g.config.GetVirtualHosts()[host].GetDomains() {
		switch {
		case d == "*":
			kinds["*"] = true
		case strings.EqualFold(d, authority):
			return "exact"
		case strings.HasPrefix(d, "*"):
			kinds["suffix"] = true
		case strings.HasSuffix(d, "*"):
			kinds["prefix"] = true
		default:
			kinds["exact, port ignored"] = true
		}
	}
	for _, k := range []string{"suffix", "prefix", "exact, port ignored", "*"} {
		if kinds[k] {
			return k
		}
	}
	return "none"
}
