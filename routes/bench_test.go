package routes_test

import (
	"fmt"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"meshseal/routes"
)

// tableOf has hosts virtual hosts with each routes, made by match.
func tableOf(hosts, each int, match func(host, route int) *routev3.RouteMatch) *routev3.RouteConfiguration {
	m := &routev3.RouteConfiguration{Name: "table"}
	for i := range hosts {
		v := &routev3.VirtualHost{Name: fmt.Sprintf("v%d", i), Domains: []string{fmt.Sprintf("h%d.test", i)}}
		for j := range each {
			v.Routes = append(v.Routes, &routev3.Route{Name: fmt.Sprintf("v%d-r%d", i, j), Match: match(i, j)})
		}
		m.VirtualHosts = append(m.VirtualHosts, v)
	}
	return m
}

func prefix(s string) *routev3.RouteMatch {
	return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: s}}
}

func exact(s string) *routev3.RouteMatch {
	return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Path{Path: s}}
}

func regex(s string) *routev3.RouteMatch {
	return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: s}}}
}

// large are tables of 10,000 routes; the request that is asked about takes the
// last of them.
var large = []struct {
	name  string
	table func() *routev3.RouteConfiguration
	ask   routes.Request
}{
	{"1000 hosts of 10 prefixes", func() *routev3.RouteConfiguration {
		return tableOf(1000, 10, func(_, j int) *routev3.RouteMatch { return prefix(fmt.Sprintf("/api/%d/", j)) })
	}, routes.Request{Authority: "h999.test", Path: "/api/9/items?page=2", Method: "GET"}},
	{"one host of 10000 paths", func() *routev3.RouteConfiguration {
		return tableOf(1, 10_000, func(_, j int) *routev3.RouteMatch { return exact(fmt.Sprintf("/api/items/%d", j)) })
	}, routes.Request{Authority: "h0.test", Path: "/api/items/9999?page=2", Method: "GET"}},
	{"one host of 10000 prefixes", func() *routev3.RouteConfiguration {
		return tableOf(1, 10_000, func(_, j int) *routev3.RouteMatch { return prefix(fmt.Sprintf("/api/%d/", j)) })
	}, routes.Request{Authority: "h0.test", Path: "/api/9999/items?page=2", Method: "GET"}},
	{"one host of 10000 expressions", func() *routev3.RouteConfiguration {
		return tableOf(1, 10_000, func(_, j int) *routev3.RouteMatch { return regex(fmt.Sprintf("/api/%d/[a-z]+", j)) })
	}, routes.Request{Authority: "h0.test", Path: "/api/9999/items?page=2", Method: "GET"}},
	{"one host of 10000 equal prefixes with a header", func() *routev3.RouteConfiguration {
		return tableOf(1, 10_000, func(_, j int) *routev3.RouteMatch {
			m := prefix("/api/")
			m.Headers = []*routev3.HeaderMatcher{{Name: "x-tenant", HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{
				StringMatch: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: fmt.Sprint(j)}},
			}}}
			return m
		})
	}, routes.Request{Authority: "h0.test", Path: "/api/items", Method: "GET", Headers: proto("x-tenant", "9999")}},
}

// proto are headers as HTTP from a plain connection has them.
func proto(more ...string) routes.HeaderMap {
	h := routes.HeaderMap{"x-forwarded-proto": {"http"}}
	for i := 0; i < len(more); i += 2 {
		h[more[i]] = append(h[more[i]], more[i+1])
	}
	return h
}

func BenchmarkMatch(b *testing.B) {
	for _, l := range large {
		b.Run(l.name, func(b *testing.B) {
			t, err := routes.Compile(l.table())
			if err != nil {
				b.Fatal(err)
			}
			if l.ask.Headers == nil {
				l.ask.Headers = proto()
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := t.Match(&l.ask); !ok {
					b.Fatal("no route")
				}
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	for _, l := range large {
		b.Run(l.name, func(b *testing.B) {
			m := l.table()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := routes.Compile(m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestMatchAllocatesNothing(t *testing.T) {
	for _, l := range large {
		table, err := routes.Compile(l.table())
		if err != nil {
			t.Fatal(err)
		}
		if l.ask.Headers == nil {
			l.ask.Headers = proto()
		}
		if c, ok := table.Match(&l.ask); !ok || c.Route < 9 {
			t.Fatalf("%s: %+v, %t", l.name, c, ok)
		}
		if n := testing.AllocsPerRun(10, func() { table.Match(&l.ask) }); n != 0 {
			t.Errorf("%s: %g allocations", l.name, n)
		}
	}
}
