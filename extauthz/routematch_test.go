package extauthz_test

import (
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"meshseal/extauthz"
	"meshseal/snapshot"
)

func prefix(p string) *routev3.RouteMatch {
	return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: p}}
}

// to is a route to app with this match.
func to(name string, m *routev3.RouteMatch) *routev3.Route {
	r := forward(name, "app")
	r.Match = m
	return r
}

func withHeader(m *routev3.RouteMatch, name, exact string) *routev3.RouteMatch {
	m.Headers = append(m.Headers, &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{
		StringMatch: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: exact}},
	}})
	return m
}

// tabled is the fixture in which orders has these routes alone.
func tabled(t testing.TB, routes ...*routev3.Route) *fixture {
	f := shop(t)
	f.content.Proxies, f.content.Resources = nil, map[snapshot.Digest][]byte{}
	resources := f.ordersResources()
	for i, m := range resources {
		if r, ok := m.(*routev3.RouteConfiguration); ok && r.GetName() == "in" {
			resources[i] = f.routes("orders", "in", routes...)
		}
	}
	f.proxy("orders", "spiffe://shop.test/ns/shop/orders", "orders", resources...)
	return f
}

// matching is a world in which orders has these routes alone.
func matching(t testing.TB, routes ...*routev3.Route) *world {
	w := empty(t)
	w.fixture = tabled(t, routes...)
	w.adopt(w.fixture, 7)
	return w
}

// by is the honest question, asked about this request by the route of a name.
func (w *world) by(route, method, path string, headers ...string) *question {
	q := w.honest().route(w, "in", route, "app").path(path)
	h := q.req.Attributes.Request.Http
	h.Method, h.Headers[":method"] = method, method
	raw := &corev3.HeaderMap{}
	for k, v := range h.Headers {
		raw.Headers = append(raw.Headers, &corev3.HeaderValue{Key: k, RawValue: []byte(v)})
	}
	for i := 0; i < len(headers); i += 2 {
		raw.Headers = append(raw.Headers, &corev3.HeaderValue{Key: headers[i], RawValue: []byte(headers[i+1])})
	}
	h.Headers, h.HeaderMap = nil, raw
	return q
}

// TestRequestIsMatchedAgain: whatever mark and name arrive with it, a request
// passes by the route that the sealed table has for it, and by no other.
func TestRequestIsMatchedAgain(t *testing.T) {
	w := matching(t,
		to("admin", withHeader(prefix("/api/admin"), "x-role", "admin")),
		to("rpc", &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/shop.Orders/"}, Grpc: &routev3.RouteMatch_GrpcRouteMatchOptions{}}),
		to("tunnel", &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_ConnectMatcher_{ConnectMatcher: &routev3.RouteMatch_ConnectMatcher{}}}),
		to("read", withHeader(prefix("/api"), ":method", "GET")),
		to("socket", withHeader(&routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Path{Path: "/live"}}, "upgrade", "websocket")),
		to("presented", &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Path{Path: "/who"}, TlsContext: &routev3.RouteMatch_TlsContextMatchOptions{Presented: wrapperspb.Bool(true)}}),
	)
	const ok, no = extauthz.OK, extauthz.RouteNotMatched
	for _, c := range []struct {
		name string
		q    *question
		want extauthz.Reason
	}{
		{"the route of the request", w.by("read", "GET", "/api/1"), ok},
		{"another path", w.by("read", "GET", "/other"), no},
		{"another method", w.by("read", "DELETE", "/api/1"), no},
		{"an earlier route takes it", w.by("read", "GET", "/api/admin", "x-role", "admin"), no},
		{"the earlier route itself", w.by("admin", "GET", "/api/admin", "x-role", "admin"), ok},
		{"the earlier route without its header", w.by("admin", "GET", "/api/admin"), no},
		{"a value among several of one header", w.by("admin", "GET", "/api/admin", "x-role", "user", "x-role", "admin"), ok},
		{"three values of one header", w.by("admin", "GET", "/api/admin", "x-role", "user", "X-Role", "guest", "x-role", "admin"), ok},
		{"a value among several, by the later route", w.by("read", "GET", "/api/admin", "x-role", "user", "x-role", "admin"), no},
		{"several values joined by the caller", w.by("admin", "GET", "/api/admin", "x-role", "user,admin"), no},
		{"gRPC", w.by("rpc", "POST", "/shop.Orders/Get", "content-type", "application/grpc"), ok},
		{"gRPC with a codec", w.by("rpc", "POST", "/shop.Orders/Get", "content-type", "application/grpc+proto"), ok},
		{"no gRPC", w.by("rpc", "POST", "/shop.Orders/Get", "content-type", "application/json"), no},
		{"CONNECT", w.by("tunnel", "CONNECT", ""), ok},
		{"no CONNECT by the route of CONNECT", w.by("tunnel", "GET", "/api"), no},
		{"CONNECT by a route of paths", w.by("read", "CONNECT", ""), no},
		{"upgrade", w.by("socket", "GET", "/live", "upgrade", "websocket", "connection", "upgrade"), ok},
		{"no upgrade", w.by("socket", "GET", "/live"), no},
		{"a client certificate", w.by("presented", "GET", "/who"), ok},
		{"a request that Envoy would have answered", w.by("read", "GET", "/api").drop("x-forwarded-proto"), no},
	} {
		t.Run(c.name, func(t *testing.T) { w.wants(t, c.q, c.want) })
	}
	w.ask(w.by("read", "GET", "/api/admin", "x-role", "admin"))
	if got := w.records.last(t).Meshseal.Detail; !strings.Contains(got, `"read"`) || !strings.Contains(got, `"admin"`) {
		t.Errorf("the detail does not name both routes: %s", got)
	}
}

// drop takes a raw header out of the request.
func (q *question) drop(name string) *question {
	m := q.req.Attributes.Request.Http.HeaderMap
	for i, h := range m.Headers {
		if h.Key == name {
			m.Headers = append(m.Headers[:i], m.Headers[i+1:]...)
			break
		}
	}
	return q
}

// TestVirtualHostIsMatchedAgain: the route of one virtual host carries no
// request that is for another.
func TestVirtualHostIsMatchedAgain(t *testing.T) {
	f := shop(t)
	f.content.Proxies, f.content.Resources = nil, map[snapshot.Digest][]byte{}
	resources := f.ordersResources()
	for i, m := range resources {
		if r, ok := m.(*routev3.RouteConfiguration); ok && r.GetName() == "in" {
			open, closed := f.routes("orders", "in", to("open", prefix("/"))), f.routes("orders", "in", to("closed", prefix("/")))
			open.VirtualHosts[0].Domains = []string{"orders"}
			closed.VirtualHosts[0].Name, closed.VirtualHosts[0].Domains = "admin", []string{"admin", "*.admin"}
			closed.VirtualHosts[0].RequireTls = routev3.VirtualHost_ALL
			open.VirtualHosts = append(open.VirtualHosts, closed.VirtualHosts...)
			resources[i] = open
		}
	}
	f.proxy("orders", "spiffe://shop.test/ns/shop/orders", "orders", resources...)
	w := empty(t)
	w.fixture = f
	w.adopt(f, 7)
	host := func(route, authority, proto string) *question {
		q := w.honest().route(w, "in", route, "app")
		h := q.req.Attributes.Request.Http
		h.Host, h.Headers[":authority"], h.Headers["x-forwarded-proto"] = authority, authority, proto
		return q
	}
	w.wants(t, host("open", "orders", "http"), extauthz.OK)
	w.wants(t, host("closed", "x.admin", "https"), extauthz.OK)
	w.wants(t, host("open", "admin", "https"), extauthz.RouteNotMatched)
	w.wants(t, host("open", "nobody", "https"), extauthz.RouteNotMatched)
	w.wants(t, host("closed", "orders", "https"), extauthz.RouteNotMatched)
	w.wants(t, host("closed", "admin", "http"), extauthz.RouteNotMatched)
	if got := w.records.last(t).Meshseal.Detail; !strings.Contains(got, "require_tls") {
		t.Errorf("the detail does not say that require_tls answers: %s", got)
	}
}

// TestEqualRoutesAreOne: of two routes that are equal, Envoy takes the first,
// and either has the mark.
func TestEqualRoutesAreOne(t *testing.T) {
	w := matching(t, to("api", prefix("/api")), to("api", prefix("/api")))
	w.wants(t, w.by("api", "GET", "/api"), extauthz.OK)
}

// TestGraceLendsTables: a superseded snapshot lends its tables with its marks,
// whichever of its other routes the new one changed; after the grace the
// request is matched against the new table alone.
func TestGraceLendsTables(t *testing.T) {
	w := matching(t, to("api", prefix("/api")))
	admin := w.by("api", "GET", "/api/admin").req
	ask := func() *question {
		q := w.honest().route(w, "in", "api", "app")
		q.req = proto.CloneOf(admin)
		return q
	}
	w.wants(t, ask(), extauthz.OK)
	next := tabled(t, to("admin", prefix("/api/admin")), to("api", prefix("/api")))
	w.adopt(next, 8)
	w.wants(t, ask(), extauthz.OK)
	w.clock.advance(w.fixture.content.Mesh.Grace)
	w.wants(t, ask(), extauthz.RouteNotMatched)
	w.fixture = next
	w.wants(t, w.by("admin", "GET", "/api/admin"), extauthz.OK)
}

// TestUnmatchableTableDeniesItsRoutesAlone: what no build of today seals does
// not take the rest of the snapshot with it.
func TestUnmatchableTableDeniesItsRoutesAlone(t *testing.T) {
	some := prefix("/api")
	some.DynamicMetadata = []*matcherv3.MetadataMatcher{{Filter: "x"}}
	w := matching(t, to("api", some))
	w.wants(t, w.by("api", "GET", "/api"), extauthz.RouteUnmatchable)
	w.wants(t, w.honest().set(snapshot.HeaderChain, "inline").route(w, "inside", "api", "app"), extauthz.OK)
	w.wants(t, w.tcp(), extauthz.OK)
}

// TestRawPathIsNotInTheWay: the policy's path and the one that is matched are
// the same field, so no header can name another.
func TestRawPathIsNotInTheWay(t *testing.T) {
	w := matching(t, to("api", prefix("/api")))
	w.wants(t, w.by("api", "GET", "/admin", "x-envoy-original-path", "/api", "x-original-url", "/api"), extauthz.RouteNotMatched)
}
