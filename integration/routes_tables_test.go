package integration

import (
	"fmt"
	"math/rand/v2"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/prototext"

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
	tracing        bool
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
		"*.test", "*.a.test", "*-x.a.test", "*test", "*:8080", "*.API.a.test", "api.*", "a.*", "api.a.*", "[::*", "A*", "w*", "a*b.test",
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
		"user-agent", "accept", "x-forwarded-for", "x-envoy-internal", "te", "origin", "via", "upgrade", ":protocol", "content-length", "authorization",
		"x-client-trace-id", "x-envoy-force-trace", "traceparent", "x-b3-traceid", "tracestate"}
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
		number: number, inbound: chance(r, 60), tls: number%4 == 1, tracing: chance(r, 30),
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
